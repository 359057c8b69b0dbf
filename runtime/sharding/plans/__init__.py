"""One small table per model family; `plan_for` finds the table of a model."""

from __future__ import annotations

from torch import nn

from ..plan import Plan, Unsupported
from . import flux, sd3, wan

PLANS = (flux.PLAN, sd3.PLAN, wan.PLAN)


def plan_for(module: nn.Module) -> Plan:
    """The plan of a diffusion module, by its class. Raises Unsupported, naming the class, when there is none."""
    kind = type(module)
    for plan in PLANS:
        if f"{kind.__module__}.{kind.__qualname__}" in plan.models:
            return plan
    raise Unsupported(
        f"There is no sequence-parallel plan for {kind.__name__}; set ulysses_degree and ring_degree to 1: "
        "CFG parallel (cfg_degree 2) works with every model."
    )
