"""Plans the self-check of a run: which model call is evaluated whole as well, and what rounding explains."""

from __future__ import annotations

import torch

from .run_plan import RunPlan

# Splitting a model changes the order of its sums. After tens of layers the relative difference of the output is a few
# units in the last place of the dtype; sums of float32 may be made in TF32 or by other kernels for other shapes.
UNITS = 8
LEAST = 1e-3
# The first call sets up what is kept for the others, such as a ControlNet's hint.
FIRST = 1


def call_to_check(plan: RunPlan, expected_calls: int) -> int:
    """The model call to evaluate twice, from 0: compressed, if any is, and evaluated by all workers together."""
    wanted = max(FIRST, plan.compression.warmup_calls) if plan.compression.enabled else FIRST
    if plan.ahead.config.enabled:
        wanted = min(wanted, plan.ahead.config.warmup_calls - 1)
    return min(wanted, expected_calls - 1)


def explained_by_rounding(plan: RunPlan, dtype: torch.dtype) -> float | None:
    """The largest relative difference that rounding explains for a model that computes in `dtype`.

    None if compression or a displaced exchange makes the shared call inexact.
    """
    degrees = plan.alone if plan.ahead.config.enabled else plan.degrees
    inexact = plan.compression.enabled or degrees.ring_exchange == "displaced"
    if degrees.sequence > 1 and inexact:
        return None
    return max(LEAST, UNITS * torch.finfo(dtype).eps)
