"""Cuts arguments to the local shard: a segment of tokens, or what lies along the joint sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..handler import Given
from ..token_context import of_item
from .action import Action, ActionOnArgument, handles

Prefix = Callable[[Mapping[str, Any], Given], int]
"""Returns the number of prefix tokens, from the arguments of the model and of the module."""


@dataclass(frozen=True)
class Split(Action):
    """Before `path` runs, replaces its argument with the local shard of `segment`.

    The argument is given by name, or by position where it has no name. The full length along `dim` is recorded as the
    length of the segment. The shard is a copy, because blocks add in place.
    `grid`: the tokens lie on a grid of so many dimensions from `dim` on. They are flattened along the first, the others
    become 1; Gather restores the grid.
    `until`: the argument that says how many tokens count; those after them are dropped.
    `item`: the argument is a tuple, and this item of it holds the tokens.
    `prefix`: the number of prefix tokens in front of the segment. Every rank keeps the whole prefix.
    """

    arg: str | int
    segment: str
    dim: int = 1
    grid: int = 1
    until: str | None = None
    item: int | None = None
    prefix: Prefix | None = None


@dataclass(frozen=True)
class SplitJoint(Action):
    """Before `path` runs, replaces its argument, which lies along `dim` like the joint sequence, with the local shard.

    Each segment is split on its own. None stays None. The copy is shared by all layers: read only.
    """

    arg: str | int
    dim: int


@handles(Split)
class SplitHandler(ActionOnArgument):
    """Splits a segment. Does nothing where `Blocks` splits at every block."""

    action: Split

    def change(self, value: Any, given: Given) -> Any:
        """See `ArgumentHandler.change`."""
        if value is None:
            raise self.context.plan.refuse(f"no {self.action.segment} tokens")
        if self.context.call.holds_all:
            return value
        return of_item(value, self.action.item, partial(self._local, given))

    def _local(self, given: Given, x: Tensor) -> Tensor:
        action = self.action
        if action.until is not None:
            x = x.narrow(action.dim, 0, min(x.shape[action.dim], given(action.until)))
        prefix = action.prefix(self.context.call.arguments, given) if action.prefix else 0
        return self.context.split(x, action.segment, action.dim, grid=action.grid, prefix=prefix)


@handles(SplitJoint)
class SplitJointHandler(ActionOnArgument):
    """Splits what lies along the joint sequence."""

    action: SplitJoint

    def change(self, value: Tensor | None, given: Given) -> Tensor | None:
        """See `ArgumentHandler.change`."""
        if value is None:
            return None
        call, dim = self.context.call, self.action.dim
        layout = self.context.layout(self.context.plan.joint)
        entries = value.shape[dim]
        has_more = entries > layout.total and call.view is not None and call.view.adds_keys  # positions of added keys
        if entries != layout.total and not has_more:
            raise self.context.plan.refuse(f"{self.action.arg} for {entries} of {layout.total} tokens")
        tokens = value.narrow(dim, 0, layout.total)
        return call.copies.once(value, dim, partial(layout.split_joint, tokens, dim, self.context.shard_index))
