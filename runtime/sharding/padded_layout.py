"""Pads segments that have fewer tokens than there are ranks: a rank without a token gets a copy of the segment's last.

So every rank holds at least one token of each segment; not all modules and kernels accept tensors without tokens.
Padding is computed like any other token, but no rank sends it, so it has no effect on other tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import TokenLayout


@dataclass(frozen=True)
class PaddedLayout(TokenLayout):
    """The layout of what each rank holds of a joint sequence: its tokens, as in `unpadded`, and padding."""

    @property
    def unpadded(self) -> TokenLayout:
        """The layout of what each rank sends: the same segments without padding."""
        return TokenLayout(self.lengths, self.shards)

    def ranges(self, shard: int, group: int = 1) -> tuple[tuple[int, int], ...]:
        """See `TokenLayout.ranges`; the ranges of two shards overlap where one holds padding."""
        ranges, ends = super().ranges(shard, group), accumulate(self.lengths)
        return tuple(
            (end - 1, end) if length and first == last else (first, last)
            for (first, last), length, end in zip(ranges, self.lengths, ends)
        )

    def has_padding(self, shard: int) -> bool:
        """Whether shard `shard` holds padding."""
        return self.chunk(shard) != self.unpadded.chunk(shard)

    def without_padding(self, x: Tensor, dim: int, shard: int) -> Tensor:
        """Drops the padding of shard `shard` from `x`, which along `dim` ends with the tokens of that shard."""
        if not self.has_padding(shard):
            return x
        front = x.shape[dim] - self.chunk(shard)
        held = x.narrow(dim, front, self.chunk(shard)).split(self.local(shard), dim)
        own = [part for part, length in zip(held, self.unpadded.local(shard)) if length]
        return torch.cat([x.narrow(dim, 0, front), *own], dim)

    def with_padding(self, x: Tensor, dim: int, shard: int) -> Tensor:
        """The inverse: puts zeros where the padding was."""
        if not self.has_padding(shard):
            return x
        own, spare = self.unpadded.local(shard), x.new_zeros(*x.shape[:dim], 1, *x.shape[dim + 1 :])
        parts = [part if length else spare for part, length in zip(x.split(own, dim), own)]
        return torch.cat([part for part, held in zip(parts, self.local(shard)) if held], dim)


def attend_without_padding(
    attend: Callable[..., Tensor],
    func: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: PaddedLayout,
    shard: int,
    **kwargs: Any,
) -> Tensor:
    """Calls `attend`, which takes ComfyUI's arguments, without the padding, and gives zero for it.

    q, k, v are of the tokens of shard `shard`; all keys of a prefix may come before them.
    """
    dim = 2 if kwargs.get("skip_reshape") else 1
    q, k, v = (layout.without_padding(x, dim, shard) for x in (q, k, v))
    out = attend(func, q, k, v, layout=layout.unpadded, **kwargs)
    return layout.with_padding(out, 2 if kwargs.get("skip_output_reshape") else 1, shard)
