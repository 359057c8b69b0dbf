"""Weights are mapped, not copied: what a large model costs the workers, measured by PSS (shared pages counted once)."""

from __future__ import annotations

import sys

import cloudpickle
import comfy.ldm.flux.model
import comfy.model_management
import comfy.ops
import comfy.sample
import comfy_models
import psutil
import pytest
import safetensors.torch
import sampling
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.comfy.run.outer_sample import ParallelSampling, pool_for
from compact_parallel.runtime.config import CompressionConfig, ParallelConfig, PoolConfig, StrategyConfig
from sampling import ksampler, model

cloudpickle.register_pickle_by_value(sys.modules[__name__])

GIB = 1 << 30
CONFIG = ParallelConfig(
    pool=PoolConfig(devices="cpu*2", name="memory"), strategy=StrategyConfig(mode="manual", ring_degree=2)
)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """(MODEL, its size in bytes): a Flux of 1 GiB in float32."""
    module = comfy_models.flux_without_weights(hidden_size=1024, num_heads=8, depth_single_blocks=8)
    weights = {name: torch.empty(value.shape).uniform_(-0.02, 0.02) for name, value in module.state_dict().items()}
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    safetensors.torch.save_file(weights, path)
    size = path.stat().st_size
    assert size > GIB
    del weights
    yield comfy_models.load(str(path)), size
    path.unlink()


def parallel(patcher):
    clone = patcher.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "compact_parallel", ParallelSampling(CONFIG))
    return clone


def pss() -> int:
    """Bytes of all workers of the pool together."""
    pool = pool_for(CONFIG, ("cpu", "cpu"))
    return sum(psutil.Process(worker["pid"]).memory_full_info().pss for worker in pool.status()["workers"])


def copy_weights(executor, *args, **kwargs):
    """Runs in a worker: what a loader that does not map would leave behind."""
    for parameter in executor.class_obj.model_patcher.model.parameters():
        parameter.data = parameter.data.clone()
    return executor(*args, **kwargs)


def test_a_second_worker_costs_little_more_than_the_first(large):
    patcher, size = large
    ksampler(parallel(model("flux")), "flux", steps=1)
    without = pss()
    ksampler(parallel(patcher), "flux", steps=1)
    mapped = pss() - without
    copying = parallel(patcher)
    copying.add_wrapper(WrappersMP.OUTER_SAMPLE, copy_weights)
    ksampler(copying, "flux", steps=1)
    copied = pss() - without
    pool_for(CONFIG, ("cpu", "cpu")).stop()
    assert mapped < size + 0.2 * 1e9, f"{mapped / 1e9:.2f} GB for weights of {size / 1e9:.2f} GB"
    assert copied > 2 * size - 0.2 * 1e9  # the measure sees a second copy where there is one


def test_parked_workers_hold_no_weights(large):
    """Neither on their devices nor mapped; the next run maps them again."""
    patcher, _ = large
    pool = pool_for(CONFIG, ("cpu", "cpu"))

    def mapped() -> list[bool]:
        workers = [psutil.Process(worker["pid"]) for worker in pool.status()["workers"]]
        return [any(entry.path.endswith("large.safetensors") for entry in worker.memory_maps()) for worker in workers]

    ksampler(parallel(patcher), "flux", steps=1)
    assert mapped() == [True, True]
    comfy.model_management.unload_all_models()
    assert mapped() == [False, False]
    ksampler(parallel(patcher), "flux", steps=1)
    assert mapped() == [True, True]
    pool.stop()


def wires(executor, *args, **kwargs):
    """Runs in a worker before it samples: writes how many wires, with their residual bases, the process has."""
    import gc
    from pathlib import Path

    found = sum(type(thing).__name__ == "ResidualWire" for thing in gc.get_objects())
    seen = Path(executor.class_obj.model_options["transformer_options"]["seen"])
    seen.with_suffix(f".{torch.distributed.get_rank()}").write_text(str(found))
    return executor(*args, **kwargs)


def test_nothing_of_a_run_stays_for_the_next(tmp_path):
    """What compression keeps is as large as what it sends; it hangs in reference cycles, which nobody would break."""
    for turn, codec in enumerate(("2bit", "2bit", None)):
        compression = CompressionConfig(mode="codec", codec=codec) if codec else None
        patcher = sampling.parallel(model("flux"), 2, compression, ring_degree=2)
        patcher.model_options["transformer_options"]["seen"] = str(tmp_path / str(turn))
        patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, wires)
        ksampler(patcher, "flux", cfg=1.0)
    counts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert counts == {f"{turn}.{rank}": own for turn, own in enumerate("110") for rank in (0, 1)}


def test_nothing_of_a_cancelled_run_stays_for_the_next(tmp_path):
    def cancel(step, x0, x, total):
        comfy.model_management.interrupt_current_processing()

    text, latent = comfy_models.conditioning(1), comfy_models.latent("flux")
    patcher = sampling.parallel(model("flux"), 2, CompressionConfig(mode="codec", codec="2bit"), ring_degree=2)
    with torch.inference_mode(), pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample(
            patcher, latent, 50, 1.0, "euler", "simple", text, text, latent, callback=cancel, seed=1
        )  # fmt: skip
    patcher = sampling.parallel(model("flux"), 2, ring_degree=2)
    patcher.model_options["transformer_options"]["seen"] = str(tmp_path / "next")
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, wires)
    ksampler(patcher, "flux", cfg=1.0)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"next.0": "0", "next.1": "0"}
