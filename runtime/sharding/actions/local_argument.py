"""Converts an argument that split.py cannot cut, such as ranges of tokens or one entry per frame, for the local tokens.

The plan gives the function that converts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..handler import Given
from ..local_shard import LocalShard
from .action import Action, ActionOnArgument, handles


@dataclass(frozen=True)
class LocalArgument(Action):
    """Before `path` runs, its argument becomes local(argument, shard): what the local tokens of `segments` need of it.

    For arguments that hold positions or one entry per frame, or that are no plain tensor. An argument that is None or
    not given stays so. The result is shared by all layers: read only. `outside`: the module is outside the blocks, so
    nothing is cut where the model holds all tokens there.
    """

    arg: str | int
    segments: tuple[str, ...]
    local: Callable[[Any, LocalShard], Any]
    outside: bool = False


@handles(LocalArgument)
class LocalArgumentHandler(ActionOnArgument):
    """Makes the local argument, once per call for all layers."""

    action: LocalArgument

    def change(self, value: Any, given: Given) -> Any:
        """See `ArgumentHandler.change`."""
        action, call = self.action, self.context.call
        if value is None or (call.holds_all and action.outside):
            return value
        make = partial(self._local, value)
        return call.copies.once(value, (action.local, action.segments), make)

    def _local(self, value: Any) -> Any:
        return self.action.local(value, self.context.local_shard(self.action.segments))
