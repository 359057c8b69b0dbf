"""A run that compresses says once if the workers' Triton cannot compile; other runs have nothing to say."""

from __future__ import annotations

import pytest
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.comfy.run import outer_sample
from compact_parallel.runtime.config import CompressionConfig, ParallelConfig, PoolConfig, StrategyConfig
from compact_parallel.runtime.pool.registry import pools
from compact_parallel.tests.support.without_compiler import REASON
from sampling import ksampler, model, parallel, relative_error, report

INT8 = CompressionConfig(mode="codec", codec="int8")
CASES = [(INT8, "ring_degree", 1), (CompressionConfig(mode="off"), "ring_degree", 0), (INT8, "cfg_degree", 0)]


@pytest.fixture(scope="module")
def sample():
    """Samples on two workers without a compiler."""
    config = PoolConfig(devices="cpu*2", name="no compiler")

    def run(compression, degree):
        chosen = ParallelConfig(config, StrategyConfig(mode="manual", **{degree: 2}), compression)
        patcher = model("flux").clone()
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "compact_parallel", outer_sample.ParallelSampling(chosen))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(outer_sample, "HANDLER", "tests.support.without_compiler:sampling_handler")
            return ksampler(patcher, "flux")

    yield run
    pools().find(config.name).stop()


@pytest.mark.parametrize(("compression", "degree", "count"), CASES)
def test_it_is_said_once_where_something_is_compressed(compression, degree, count, sample):
    samples = sample(compression, degree)
    told = [sentence for sentence in report()["warnings"] if "Triton" in sentence]
    assert len(told) == count and all(REASON in sentence for sentence in told)
    usual = ksampler(parallel(model("flux"), 2, compression, **{degree: 2}), "flux")
    assert not any("Triton" in sentence for sentence in report()["warnings"])
    assert relative_error(samples, usual) < 1e-6
