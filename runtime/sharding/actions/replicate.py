"""Replicates a module: gathers its input, so that every rank runs it on all tokens, and cuts its output again.

A module that is given all tokens anyway needs no gathering: see unsplit.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..handler import Given
from ..token_context import of_item
from .action import Action, ActionOnArgument, handles


@dataclass(frozen=True)
class Replicate(Action):
    """`path` mixes tokens by position, so it is replicated: its argument, local tokens of `segment`, is gathered first.

    Its output is cut to the local tokens, unless it has no tokens of that segment (`cut` False). For few and cheap
    modules: every rank does all of the work. `outside`: the module is outside the blocks, so nothing is done where the
    model holds all tokens there. `item`: the output is a tuple, and this item of it holds the tokens.
    """

    arg: str | int
    segment: str
    cut: bool = True
    outside: bool = False
    item: int | None = None


@handles(Replicate)
class ReplicateHandler(ActionOnArgument):
    """Gathers the argument and cuts the output."""

    action: Replicate

    def _has_all(self) -> bool:
        return self.action.outside and self.context.call.holds_all

    def change(self, value: Tensor, given: Given) -> Tensor:
        """See `ArgumentHandler.change`."""
        if self._has_all():
            return value
        tag = self.context.tag(self.context.call.names.unique(self.site.path), "all tokens")
        return self.context.all_gather(value, self.context.layout((self.action.segment,)), 1, tag)

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """See `ModuleHandler.post_hook`."""
        if self._has_all() or not self.action.cut:
            return None
        return of_item(output, self.action.item, self.context.local_shard((self.action.segment,)).tokens)
