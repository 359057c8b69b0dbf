"""Gathers the tokens of all ranks after a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..token_context import of_item
from .action import Action, ActionHandler, handles


@dataclass(frozen=True)
class Gather(Action):
    """The output of `path` holds the local tokens of `segments` along `dim`; it is gathered, the same on every rank.

    Gather after the last layer that works on each token alone, where the channels are fewest. `after`: segments whose
    local tokens may lie in front of the gathered ones; they are kept, not gathered. `item`: the output is a tuple, and
    this item of it holds the tokens. `when`: gathers in calls of the model for whose arguments, by name, it is true.
    """

    segments: tuple[str, ...]
    dim: int = 1
    after: tuple[str, ...] = ()
    item: int | None = None
    when: Callable[[Mapping[str, Any]], bool] | None = None


@handles(Gather)
class GatherHandler(ActionHandler):
    """Gathers. Does nothing where `Blocks` gathers after every block."""

    action: Gather

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """See `ModuleHandler.post_hook`."""
        call, when = self.context.call, self.action.when
        if call.holds_all or (when is not None and not when(call.arguments)):
            return None
        return of_item(output, self.action.item, self._gathered)

    def _gathered(self, x: Tensor) -> Tensor:
        action, context = self.action, self.context
        context.call.gathered = True
        if context.keeps_local:
            return context.local_at_its_place(x, action.segments, action.dim)
        kept = sum(context.layout(action.after).local(context.shard_index)) if action.after else 0
        return context.gather(x, action.segments, action.dim, context.tag(self.site.path, "tokens"), kept)
