"""Which call the self-check of a run evaluates twice, and what rounding explains."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.config import CompressionConfig, ParallelConfig, StepReuseConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.planner.check_plan import LEAST, call_to_check, explained_by_rounding
from compact_parallel.runtime.planner.look_ahead import LookAhead
from compact_parallel.runtime.planner.run_plan import RunPlan

OFF = CompressionConfig(mode="off")
RING, ALONE = Degrees(ring=2), Degrees()
TWO_BIT = CompressionConfig(mode="codec", codec="2bit", warmup_calls=4)


def plan(compression=OFF, warmup_calls=None, degrees=RING, alone=ALONE) -> RunPlan:
    config = StepReuseConfig(mode="look_ahead", warmup_calls=warmup_calls) if warmup_calls else StepReuseConfig()
    return RunPlan(ParallelConfig(), degrees, alone, LookAhead(config), compression)


@pytest.mark.parametrize(
    ("given", "calls", "checked"),
    [
        (plan(), 20, 1),
        (plan(), 1, 0),
        (plan(TWO_BIT), 20, 4),
        (plan(TWO_BIT), 3, 2),
        (plan(warmup_calls=3), 20, 1),
        (plan(warmup_calls=1), 20, 0),
        (plan(TWO_BIT, warmup_calls=3), 20, 2),
    ],
)
def test_the_call_is_one_that_all_workers_share_and_that_is_compressed_if_any_is(given, calls, checked):
    assert call_to_check(given, calls) == checked


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, LEAST), (torch.float16, 2**-7), (torch.bfloat16, 2**-4)])
def test_rounding_explains_more_in_a_coarser_dtype(dtype, bound):
    assert explained_by_rounding(plan(), dtype) == bound


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (plan(TWO_BIT), False),
        (plan(TWO_BIT, degrees=Degrees(cfg=2)), True),  # predictions are never compressed
        (plan(degrees=Degrees(ring=2, ring_exchange="displaced")), False),
        (plan(TWO_BIT, warmup_calls=3, degrees=Degrees(step=2)), True),
        (plan(TWO_BIT, warmup_calls=3, degrees=Degrees(step=2), alone=Degrees(ring=2)), False),
    ],
)
def test_rounding_explains_only_an_exact_exchange(given, exact):
    assert (explained_by_rounding(given, torch.float32) is not None) == exact
