"""ComfyUI's own attention overrides on pools of real workers, on a ComfyUI that has such (see conventions.py)."""

from __future__ import annotations

import importlib

import comfy.ldm.modules.attention as attention
import pytest
from compact_parallel.runtime.pool.errors import JobFailed
from sampling import TOLERANCE, ksampler, model, parallel, relative_error, report

pytestmark = pytest.mark.skipif(not hasattr(attention, "ComfyAttention"), reason="this ComfyUI has no such overrides")


def with_override(module: str, make: str):
    """The MODEL with an override of one of ComfyUI's extra nodes."""
    patched = model("sd3").clone()
    override = getattr(importlib.import_module(f"comfy_extras.{module}"), make)()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    return patched


@pytest.mark.parametrize("strategy", ({"ulysses_degree": 2}, {"cfg_degree": 2}, {}), ids=("ulysses", "cfg", "auto"))
@pytest.mark.parametrize("cfg", (1.0, 3.0))
def test_sparse_attention_stays_sparse(strategy, cfg):
    if cfg == 1.0 and "cfg_degree" in strategy:
        strategy = {"data_degree": 1, "ulysses_degree": 2}
    sparse = with_override("nodes_sparse_attention", "make_attention_override")
    expected = ksampler(sparse, "sd3", cfg=cfg)
    assert relative_error(ksampler(model("sd3"), "sd3", cfg=cfg), expected) > 100 * TOLERANCE
    assert relative_error(ksampler(parallel(sparse, 2, **strategy), "sd3", cfg=cfg), expected) < TOLERANCE
    if not strategy:
        assert report()["strategy"]["ulysses_degree" if cfg == 1.0 else "cfg_degree"] == 2


def test_a_ring_would_make_it_dense_and_is_refused():
    sparse = with_override("nodes_sparse_attention", "make_attention_override")
    with pytest.raises(JobFailed, match=r"nothing would be sparse. Use ulysses_degree, or bypass that node"):
        ksampler(parallel(sparse, 2, ring_degree=2), "sd3")


def test_another_attention_function_is_no_override_that_goes_by_what_it_sees():
    chosen = with_override("nodes_attention_backend", "make_override")
    expected = ksampler(chosen, "sd3")
    for exchange in ("all_gather", "ring"):
        samples = ksampler(parallel(chosen, 2, ring_degree=2, ring_exchange=exchange), "sd3")
        assert relative_error(samples, expected) < TOLERANCE
        assert report()["warnings"] == []
