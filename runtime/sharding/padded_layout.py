"""Pads segments of fewer tokens than ranks: a rank without a token of one holds a copy of its last token.

So every rank holds some tokens of each segment: modules and kernels disagree about tensors without tokens. Padding is
computed like any other token, but no rank sends it, so nothing of it reaches another token.
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
        return TokenLayout(self.lengths, self.parts)

    def ranges(self, part: int, group: int = 1) -> tuple[tuple[int, int], ...]:
        """See `TokenLayout.ranges`; the ranges of two shards overlap where one holds padding."""
        ranges, ends = super().ranges(part, group), accumulate(self.lengths)
        return tuple(
            (end - 1, end) if length and first == last else (first, last)
            for (first, last), length, end in zip(ranges, self.lengths, ends)
        )

    def has_padding(self, part: int) -> bool:
        """Whether shard `part` holds padding."""
        return self.chunk(part) != self.unpadded.chunk(part)

    def without_padding(self, x: Tensor, dim: int, part: int) -> Tensor:
        """Drops the padding of shard `part` from `x`, which along `dim` ends with the tokens of that shard."""
        if not self.has_padding(part):
            return x
        front = x.shape[dim] - self.chunk(part)
        places = [*range(front), *(front + place for place in self._places(part))]
        return x.index_select(dim, torch.tensor(places, dtype=torch.long, device=x.device))

    def with_padding(self, x: Tensor, dim: int, part: int) -> Tensor:
        """The inverse: puts zeros where the padding was."""
        if not self.has_padding(part):
            return x
        whole = x.new_zeros(*x.shape[:dim], self.chunk(part), *x.shape[dim + 1 :])
        places = torch.tensor(self._places(part), dtype=torch.long, device=x.device)
        return whole.index_copy(dim, places, x)

    def _places(self, part: int) -> list[int]:
        held, unpadded = self.local(part), self.unpadded.local(part)
        firsts = [end - length for end, length in zip(accumulate(held), held)]
        return [first + token for first, length in zip(firsts, unpadded) for token in range(length)]


def attend_without_padding(
    attend: Callable[..., Tensor],
    func: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: PaddedLayout,
    part: int,
    **kwargs: Any,
) -> Tensor:
    """Calls `attend`, which takes ComfyUI's arguments, without the padding, and gives zero for it.

    q, k, v are of the tokens of shard `part`; all keys of a prefix may come before them.
    """
    dim = 2 if kwargs.get("skip_reshape") else 1
    q, k, v = (layout.without_padding(x, dim, part) for x in (q, k, v))
    out = attend(func, q, k, v, layout=layout.unpadded, **kwargs)
    return layout.with_padding(out, 2 if kwargs.get("skip_output_reshape") else 1, part)
