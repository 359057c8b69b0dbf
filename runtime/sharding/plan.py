"""The plan language: a table per model family says which tensors are split over the ranks and where they are gathered.

A plan is data: a list of actions, whose handlers `token_sharding.py` puts on the model. Paths are module names as in
named_modules(). One component may be `*` (every child), `first` or `last` (of a ModuleList); a child that really has
that name takes precedence. "Local" is what this rank holds: its shard of a tensor, or its shard's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..attention.unsupported import Unsupported
from .actions import (
    Action,
    AttentionScope,
    Blocks,
    ControlResiduals,
    DivideHeads,
    DivideSequences,
    DivideTokens,
    Gather,
    Halo,
    KeyMask,
    LocalArgument,
    Replicate,
    Split,
    SplitJoint,
    Unsplit,
)
from .family import Family, Guard
from .parameters import Passed

__all__ = [
    "Action",
    "AttentionScope",
    "Blocks",
    "ControlResiduals",
    "DivideHeads",
    "DivideSequences",
    "DivideTokens",
    "Gather",
    "Guard",
    "Halo",
    "KeyMask",
    "LocalArgument",
    "Passed",
    "Plan",
    "Replicate",
    "Split",
    "SplitJoint",
    "Unsplit",
    "Unsupported",
]


@dataclass(frozen=True)
class Plan(Family):
    """How one model family is split: `joint` names the segments of its sequence in the order the model joins them.

    With `blocks`, patches may look at the tokens between the blocks, and a block that a workflow changes runs on all
    tokens. Without `blocks` neither is possible: a guard must refuse such patches, and a model with changed code is
    refused. `whole_with`: arguments with which the model counts all tokens between its blocks; where one of them is
    given, the model holds all tokens there. `sequences`: with its arguments, by name, the model makes so many
    sequences (frames) of each batch entry, one after the other along its batch.
    """

    joint: tuple[str, ...]
    actions: tuple[Action, ...]
    blocks: tuple[Blocks, ...] = ()
    whole_with: tuple[str, ...] = ()
    sequences: Callable[[Mapping[str, Any]], int] | None = None

    @property
    def all_actions(self) -> tuple[Action, ...]:
        """The actions, and the splits before the first block of segments that no action of the plan splits."""
        stated = {action.segment for action in self.actions if isinstance(action, Split)}
        derived = (split for blocks in self.blocks for split in blocks.first_splits() if split.segment not in stated)
        return (*derived, *self.actions)
