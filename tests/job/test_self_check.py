"""The self-check of Parallel Model: one call of a run, shared and whole, on real workers."""

from __future__ import annotations

import comfy_models
import pytest
import torch
from compact_parallel.runtime.config import CompressionConfig, StepReuseConfig
from compact_parallel.runtime.report.summary import summarize
from sampling import TOLERANCE, ksampler, model, parallel, report

STEP_REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2, warmup_calls=2)
WAYS = {
    "cfg": (2, {"cfg_degree": 2}),
    "data": (2, {"data_degree": 2}),
    "sequence": (2, {"ring_degree": 2}),
    "steps": (2, {"step_degree": 2, "step_reuse": STEP_REUSE}),
}


def checked(world: int, family="flux", patch=lambda patcher: patcher, **keywords):
    """The samples of a run with the self-check, and what it found."""
    options = {name: keywords.pop(name) for name in ("batch", "steps", "cfg") if name in keywords}
    samples = ksampler(patch(parallel(model(family), world, self_check=True, **keywords)), family, **options)
    return samples, report()["self_check"]


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_checked_and_stays_what_it_is(way):
    world, strategy = WAYS[way]
    batch = 2 if way == "data" else 1
    samples, found = checked(world, batch=batch, steps=5, **strategy)
    assert report()["fallbacks"] == [] and report()["warnings"] == []
    assert found["call"] == 1 and found["reason"] == ""
    assert 0 <= found["difference"] < TOLERANCE < found["explained"]
    assert "Self-check: model call 2, evaluated whole on every device as well" in summarize(report())
    sent, evaluations = report()["bytes_sent"], report()["evaluations_per_rank"]
    without = ksampler(parallel(model("flux"), world, **strategy), "flux", batch=batch, steps=5)
    assert torch.equal(samples, without)
    assert report()["self_check"] is None and "Self-check" not in summarize(report())
    assert (report()["bytes_sent"], report()["evaluations_per_rank"]) == (sent, evaluations)


def test_compression_is_checked_when_it_has_begun_and_not_blamed():
    compression = CompressionConfig(mode="codec", codec="2bit", warmup_calls=2)
    samples, found = checked(2, compression=compression, steps=5, ring_degree=2)
    assert found["call"] == 2 and found["explained"] is None
    assert found["difference"] > 1e-4
    assert report()["warnings"] == []
    assert torch.equal(samples, ksampler(parallel(model("flux"), 2, compression=compression, ring_degree=2), "flux", steps=5))
