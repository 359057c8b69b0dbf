"""The self-check of Parallel Model: one call of a run, shared and whole, on real workers."""

from __future__ import annotations

import sys

import cloudpickle
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.config import CompressionConfig, StepReuseConfig
from compact_parallel.runtime.report.summary import summarize
from sampling import TOLERANCE, ksampler, model, parallel, pool, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEP_REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2, warmup_calls=2)
WAYS = {
    "cfg": {"cfg_degree": 2},
    "data": {"data_degree": 2},
    "sequence": {"ring_degree": 2},
    "steps": {"step_degree": 2, "step_reuse": STEP_REUSE},
}


def run(self_check: bool, patched=None, steps=5, batch=1, **strategy) -> torch.Tensor:
    """The samples on two workers."""
    shared = parallel(patched or model("flux"), 2, self_check=self_check, **strategy)
    return ksampler(shared, "flux", steps=steps, batch=batch)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_checked_and_stays_what_it_is(way):
    size = {"steps": 7 if way == "steps" else 4, "batch": 2 if way == "data" else 1}
    samples = run(True, **size, **WAYS[way])
    with_check, said = report(), summarize(report())
    found = with_check["self_check"]
    assert with_check["fallbacks"] == [] and not any("self-check" in text for text in with_check["warnings"])
    assert (found["call"], found["reason"]) == (1, "")
    assert 0 <= found["difference"] < TOLERANCE < found["explained"]
    assert "Self-check: model call 2, evaluated whole on every device as well" in said
    assert torch.equal(samples, run(False, **size, **WAYS[way]))
    assert report()["self_check"] is None and "Self-check" not in summarize(report())
    for figure in ("bytes_sent", "evaluations_per_rank", "calls", "accepted"):
        assert report()[figure] == with_check[figure], figure


def test_compression_is_checked_when_it_has_begun_and_not_blamed():
    compression = CompressionConfig(mode="codec", codec="2bit", warmup_calls=2)
    samples = run(True, compression=compression, ring_degree=2)
    found = report()["self_check"]
    assert (found["call"], found["explained"]) == (2, None)
    assert found["difference"] > 1e-4
    assert report()["warnings"] == []
    assert "compression or a displaced exchange adds to it" in summarize(report())
    sent = report()["bytes_sent"]
    assert torch.equal(samples, run(False, compression=compression, ring_degree=2))
    assert report()["bytes_sent"] == sent


def break_the_plan(executor, *args, **kwargs):
    """In a worker, from the next run on: the attention of the single blocks sees local tokens only."""
    plan = sys.modules["compact_parallel.runtime.sharding.plans.flux"].PLAN
    left = [one for one in plan.actions if not (type(one).__name__ == "AttentionScope" and "single" in one.path)]
    object.__setattr__(plan, "actions", tuple(left))
    return executor(*args, **kwargs)


def test_a_broken_plan_is_reported():
    """Negative control."""
    breaking = parallel(model("flux"), 2, ring_degree=2)
    breaking.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "behind", break_the_plan)
    try:
        ksampler(breaking, "flux", steps=1)
        run(False, ring_degree=2)
        assert report()["warnings"] == []
        run(True, ring_degree=2)
    finally:
        pool(2).stop()
    found = report()["self_check"]
    assert found["difference"] > found["explained"]
    (warning,) = report()["warnings"]
    assert warning.startswith("The self-check failed: at model call 2")
    assert f"Warning: {warning}" in summarize(report())


class Counting:
    """A DIFFUSION_MODEL wrapper that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, executor, *args, **kwargs):
        self.calls += 1
        return executor(*args, **kwargs)


def test_what_remembers_its_calls_is_not_called_twice():
    calls = {}
    for self_check in (False, True):
        counting = Counting()
        counted = model("flux").clone()
        counted.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "counting", counting)
        run(self_check, counted, cfg_degree=2)
        calls[self_check] = counting.calls
    assert calls[True] == calls[False] > 0
    found = report()["self_check"]
    assert found["difference"] is None
    assert found["reason"].startswith("Counting remembers something from call to call")
    assert f"Self-check: not done; {found['reason']}." in summarize(report())
