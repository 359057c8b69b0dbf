"""Cuts the outputs of a ControlNet to the local tokens, each when the model takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

from torch import Tensor

from ..handler import Given
from ..local_shard import LocalShard
from .action import Action, ActionOnArgument, handles


@dataclass(frozen=True)
class ControlResiduals(Action):
    """Before `path` runs, cuts the ControlNet outputs for `segment` to the local tokens.

    They are ComfyUI's argument `control`, {"input" | "middle" | "output": tensors}, or a list of tensors. Each is cut
    when the model asks for it, which it does after the split.
    """

    arg: str | int
    segment: str


@handles(ControlResiduals)
class ControlResidualsHandler(ActionOnArgument):
    """Wraps control; leaves it as it is where the model adds it to all tokens."""

    action: ControlResiduals

    def change(self, value: Any, given: Given) -> Any:
        """See `ArgumentHandler.change`."""
        if value is None or self.context.call.holds_all:
            return value
        shard = partial(self.context.local_shard, (self.action.segment,))
        if not isinstance(value, Mapping):
            return LocalControl(value, shard)
        return {place: LocalControl(residuals, shard) for place, residuals in value.items()}


class LocalControl(Sequence[Any]):
    """ControlNet outputs (B, N, C) that a model adds to its tokens by layer, each cut to the local ones on access.

    An output with fewer tokens than the model has is for its first ones.
    """

    def __init__(self, residuals: Sequence[Tensor | None], shard: Callable[[], LocalShard]) -> None:
        self._residuals, self._shard = residuals, shard

    def __len__(self) -> int:
        return len(self._residuals)

    @overload
    def __getitem__(self, index: int) -> Tensor | None: ...

    @overload
    def __getitem__(self, index: slice) -> LocalControl: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return LocalControl(self._residuals[index], self._shard)
        residual = self._residuals[index]
        if residual is None:
            return None
        shard = self._shard()
        ((first, last),) = shard.layout.ranges(shard.index)
        length = residual.shape[1]
        first, last = min(first, length), min(last, length)
        return residual.narrow(1, first, last - first)

    def pop(self) -> Tensor | None:
        """Removes the last output and returns it, cut."""
        residual, self._residuals = self[-1], self._residuals[:-1]
        return residual
