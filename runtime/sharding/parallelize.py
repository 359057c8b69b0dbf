"""Splits a model or a ControlNet over ranks: looks up its plan and returns the object that applies it.

That is a TokenSharding or a RowSharding, or their subclass for ControlNets. Their `_attach` shows the order of hooks.
"""

from __future__ import annotations

from torch import nn

from ..attention.sequence_attention import SequenceAttention
from .control_plans import control_plan
from .control_tokens import ControlTokens
from .hooks import Hooked
from .plans import plan_for
from .rows.control_rows import ControlRows
from .rows.row_plan import RowPlan
from .rows.row_sharding import RowSharding
from .token_sharding import TokenSharding


def split_over_ranks(module: nn.Module, attention: SequenceAttention) -> Hooked:
    """The sharding of a diffusion module, of tokens or rows. Raises Unsupported when there is no plan for its class."""
    plan = plan_for(module)
    kind = RowSharding if isinstance(plan, RowPlan) else TokenSharding
    return kind(module, plan, attention)


def split_control(control: nn.Module, attention: SequenceAttention) -> ControlTokens | ControlRows | None:
    """The sharding of a ControlNet's module, of tokens or of rows; None for a class without a plan."""
    plan = control_plan(control)
    if plan is None:
        return None
    kind = ControlRows if isinstance(plan, RowPlan) else ControlTokens
    return kind(control, plan, attention)
