"""Token sharding of a ControlNet, split like the model it steers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .plan import Gather
from .token_sharding import TokenSharding


class ControlTokens(TokenSharding):
    """See `TokenSharding`. Its control has all tokens, the same on every rank.

    With `keeps_own` it is right at the local tokens only, and zero elsewhere: for a model that takes no others. Then
    none of it is sent.
    """

    keeps_own = False
    given = ()

    def _gather(self, action: Gather, path: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not self.keeps_own:
            return super()._gather(action, path, module, args, output)
        self._forward.gathered = True
        layout = self._layout(action.segments)
        ((first, last),) = layout.ranges(self.attention.shard_index)
        return in_place(output, action.dim, layout.total, first, last)


def in_place(own: Tensor, dim: int, total: int, first: int, last: int) -> Tensor:
    """A tensor of size `total` along `dim`: the local values from `first` to `last`, zero elsewhere."""
    whole = own.new_zeros(*own.shape[:dim], total, *own.shape[dim + 1 :])
    whole.narrow(dim, first, last - first).copy_(own)
    return whole
