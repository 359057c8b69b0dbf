"""The context that the handlers of a plan's actions share: ranks, plan and running call, and splitting and gathering.

B batch, L local tokens, N all tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..attention.layout import TokenLayout
from ..attention.sequence_attention import SequenceAttention
from ..compression.wire import Tag
from .local_shard import LocalShard
from .padded_layout import PaddedLayout
from .token_call import Segment, TokenCall

if TYPE_CHECKING:
    from .plan import Plan


class TokenContext:
    """The context that the handlers of one model share.

    `call`: the running call of the model, empty between calls. `keeps_local`: what is gathered stays local: its local
    tokens at their places, and zero elsewhere. Then none of it is sent.
    """

    def __init__(self, plan: Plan, attention: SequenceAttention) -> None:
        self.plan, self.attention = plan, attention
        self.call = TokenCall()
        self.keeps_local = False

    @property
    def shard_index(self) -> int:
        """Which shard of the sequence this rank holds."""
        return self.attention.shard_index

    @property
    def shards(self) -> int:
        """The number of shards."""
        return self.attention.shards

    def layout(self, segments: tuple[str, ...]) -> PaddedLayout:
        """The layout of segments that have been split. Raises Unsupported where the first block has not run."""
        split = self.call.segments
        if any(segment not in split for segment in segments):
            raise self.plan.refuse_unrun("first block")
        return PaddedLayout(tuple(split[segment].length for segment in segments), self.shards)

    def local_shard(self, segments: tuple[str, ...]) -> LocalShard:
        """The local shard of the segments."""
        return LocalShard(self.layout(segments), self.shard_index, self.call.holds_all)

    def tag(self, layer: str, name: str, *, sensitive: bool = True) -> Tag:
        """The tag of a message about the batch entries of the call; tokens, unlike K and V, are `sensitive`."""
        return Tag(layer, name, self.call.slots, sensitive=sensitive)

    def record(self, x: Tensor, segment: str, dim: int, *, grid: int = 1, prefix: int = 0) -> Tensor:
        """Notes the length of a segment, all of whose tokens `x` has along `dim`, behind a prefix.

        Tokens on a grid of `grid` dimensions from `dim` on are flattened along the first; the others become 1. Returns
        `x` so flattened.
        """
        shape: tuple[int, ...] = ()
        if grid > 1:
            shape = tuple(x.shape[dim : dim + grid])
            x = x.flatten(dim, dim + grid - 1)[(slice(None),) * (dim + 1) + (None,) * (grid - 1)]
        self.call.segments[segment] = Segment(x.shape[dim] - prefix, prefix, shape)
        return x

    def split(self, x: Tensor, segment: str, dim: int, *, grid: int = 1, prefix: int = 0) -> Tensor:
        """As `record`; returns the prefix and the local tokens."""
        x = self.record(x, segment, dim, grid=grid, prefix=prefix)
        tokens = x.narrow(dim, prefix, x.shape[dim] - prefix)
        local = self.layout((segment,)).split(tokens, 0, dim, self.shard_index)
        return torch.cat([x.narrow(dim, 0, prefix), local], dim) if prefix else local

    def on_grid(self, x: Tensor, segment: str, dim: int) -> Tensor:
        """Puts all tokens of a segment back on the grid they had in the model."""
        grid = self.call.segments[segment].grid
        return x.reshape(*x.shape[:dim], *grid, *x.shape[dim + len(grid) :]) if grid else x

    def gather(self, x: Tensor, segments: tuple[str, ...], dim: int, tag: Tag, kept: int = 0) -> Tensor:
        """Gathers the tokens of the segments, on their grid; in front of them the prefix and `kept` other tokens stay.

        Raises Unsupported where `x` does not have the local tokens.
        """
        kept += self.call.segments[segments[0]].prefix if segments[0] in self.call.segments else 0
        local, layout = x.narrow(dim, kept, x.shape[dim] - kept), self.layout(segments)
        if local.shape[dim] != layout.chunk(self.shard_index):
            raise self.plan.refuse("a patch that changes the number of tokens")
        every = self.all_gather(local, layout, dim, tag)
        every = torch.cat([x.narrow(dim, 0, kept), every], dim) if kept else every
        return self.on_grid(every, segments[0], dim)

    def all_gather(self, x: Tensor, layout: TokenLayout, dim: int, tag: Tag) -> Tensor:
        """Gathers the tokens of all ranks; where they come before the batch, its entries travel as one."""
        if isinstance(layout, PaddedLayout):
            x, layout = layout.without_padding(x, dim, self.shard_index), layout.unpadded
        if dim > 0:
            return self.attention.gather_tokens(x, layout, dim, tag)
        together = (" and ".join(f"{cond}, {sample}" for cond, sample in tag.slots), 0)
        return self.attention.gather_tokens(x[None], layout, 1, replace(tag, slots=(together,)))[0]

    def local_at_its_place(self, x: Tensor, segments: tuple[str, ...], dim: int) -> Tensor:
        """A tensor of all tokens along `dim`: the local ones `x`, and zero elsewhere."""
        layout = self.layout(segments)
        ((first, last),) = layout.ranges(self.shard_index)
        return in_place(x, dim, layout.total, first, last)


def in_place(local: Tensor, dim: int, total: int, first: int, last: int) -> Tensor:
    """A tensor of size `total` along `dim`: the local values from `first` to `last`, zero elsewhere."""
    whole = local.new_zeros(*local.shape[:dim], total, *local.shape[dim + 1 :])
    whole.narrow(dim, first, last - first).copy_(local)
    return whole


def of_item(x: Any, item: int | None, change: Callable[[Tensor], Tensor]) -> Any:
    """Applies `change` to a tensor, or to one `item` of a tuple."""
    return change(x) if item is None else (*x[:item], change(x[item]), *x[item + 1 :])
