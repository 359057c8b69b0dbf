"""The layout of a joint sequence: which of its tokens lie on which rank of the sequence axis.

B batch, N tokens of the joint sequence, L tokens of one rank, P ranks. A joint sequence is made of segments in order,
for instance text then image; each segment is split on its own, so every rank holds some of each and has equal work.
Attention does not depend on the order of its keys: concatenating the shards of the ranks needs no reordering there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """Segments of `lengths` tokens, each split into `shards` shards like torch.tensor_split: the first get one more.

    `shard` is a shard index. Where ranks act as one (the members of a Ulysses group), `group` merges that many
    neighbouring shards: a merged shard is again segment by segment, and `shard` then counts merged ones.
    """

    lengths: tuple[int, ...]
    shards: int

    @property
    def total(self) -> int:
        """N, the tokens of the joint sequence."""
        return sum(self.lengths)

    def ranges(self, shard: int, group: int = 1) -> tuple[tuple[int, int], ...]:
        """Per segment, first and last-plus-one position in the joint sequence of what shard `shard` holds."""
        found, offset = [], 0
        for length in self.lengths:
            small, more = divmod(length, self.shards)
            first, last = (p * small + min(p, more) for p in (shard * group, (shard + 1) * group))
            found.append((offset + first, offset + last))
            offset += length
        return tuple(found)

    def local(self, shard: int, group: int = 1) -> tuple[int, ...]:
        """Tokens per segment on shard `shard`."""
        return tuple(last - first for first, last in self.ranges(shard, group))

    def chunk(self, shard: int, group: int = 1) -> int:
        """L, the number of tokens of shard `shard`."""
        return sum(self.local(shard, group))

    def text(self, shard: int, group: int = 1) -> int:
        """The number of text tokens of shard `shard`, which come first: those of all segments but the last."""
        return sum(self.local(shard, group)[:-1])

    def behind(self, tokens: int) -> TokenLayout:
        """The layout with a segment of `tokens` tokens in front of the others."""
        return TokenLayout((tokens, *self.lengths), self.shards)

    def split(self, x: Tensor, segment: int, dim: int, shard: int) -> Tensor:
        """The tokens of one segment on shard `shard`, as a copy; `x` holds that whole segment along `dim`."""
        offset = sum(self.lengths[:segment])
        first, last = self.ranges(shard)[segment]
        return x.narrow(dim, first - offset, last - first).clone(memory_format=torch.contiguous_format)

    def split_joint(self, x: Tensor, dim: int, shard: int, group: int = 1) -> Tensor:
        """The tokens of shard `shard` from `x`, which holds the whole joint sequence along `dim`; a copy."""
        return torch.cat([x.narrow(dim, first, last - first) for first, last in self.ranges(shard, group)], dim=dim)

    def gathered(self, x: Tensor, dim: int, group: int = 1) -> Tensor:
        """Reorders `x` along `dim` from the joint sequence to the concatenated shards [t0, i0, t1, i1, ...].

        By slices: indices would have to be copied to the device of `x`, for which the host waits.
        """
        spans = [span for shard in range(self.shards // group) for span in self.ranges(shard, group)]
        return torch.cat([x.narrow(dim, first, last - first) for first, last in spans], dim)

    def restored(self, x: Tensor, dim: int, group: int = 1) -> Tensor:
        """The inverse of `gathered`."""
        segments = len(self.lengths)
        spans = x.split([n for shard in range(self.shards // group) for n in self.local(shard, group)], dim)
        return torch.cat([span for segment in range(segments) for span in spans[segment::segments]], dim)
