"""The local shard of a sequence, and what of full-sequence arguments belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.layout import TokenLayout


@dataclass(frozen=True)
class LocalShard:
    """The local shard of a sequence: `layout` says which tokens each rank has, `index` is the local shard index.

    `holds_all`: between its blocks the model holds all tokens, not only the local ones.
    """

    layout: TokenLayout
    index: int
    holds_all: bool = False

    @property
    def total(self) -> int:
        """N, the tokens of all ranks."""
        return self.layout.total

    @property
    def lengths(self) -> tuple[int, ...]:
        """The local tokens per segment."""
        return self.layout.local(self.index)

    @property
    def between(self) -> tuple[int, ...]:
        """The tokens per segment that the model holds, and counts, between its blocks."""
        return self.layout.lengths if self.holds_all else self.lengths

    def tokens(self, x: Tensor, dim: int = 1) -> Tensor:
        """The local tokens of `x`, which has those of all ranks along `dim`; `x` itself if it has one for all."""
        return x if x.shape[dim] == 1 else self.layout.split_joint(x, dim, self.index)

    def repeated(self, x: Tensor, dim: int = 1) -> Tensor:
        """Repeats `x` to one entry per local token; each entry along `dim` is for equally many neighbours (a frame).

        A single entry is for all tokens and stays one.
        """
        entries = x.shape[dim]
        if entries == 1:
            return x
        spans = self.layout.ranges(self.index)
        positions = torch.cat([torch.arange(first, last, device=x.device) for first, last in spans])
        return x.index_select(dim, positions // -(-self.total // entries))

    def position(self, token: int | None) -> int | None:
        """The number of local tokens before `token`, a position in the whole sequence; None (the end) stays None."""
        if token is None:
            return None
        return sum(min(max(token, first), last) - first for first, last in self.layout.ranges(self.index))
