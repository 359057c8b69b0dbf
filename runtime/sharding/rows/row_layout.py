"""Which rows of a feature map lie on which rank, at every resolution of a UNet."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...attention.layout import TokenLayout


@dataclass(frozen=True)
class RowLayout(TokenLayout):
    """Rows in the order of the ranks: shard p has rows bounds[p] to bounds[p + 1], each of `width` tokens."""

    bounds: tuple[int, ...] = ()
    width: int = 1

    @classmethod
    def of(cls, bounds: tuple[int, ...]) -> RowLayout:
        """The layout with these bounds, one token per row."""
        return cls((bounds[-1],), len(bounds) - 1, bounds)

    @property
    def height(self) -> int:
        """H, the rows of all ranks."""
        return self.bounds[-1]

    def rows(self, shard: int) -> tuple[int, int]:
        """The first row of shard `shard`, and the last plus one."""
        return self.bounds[shard], self.bounds[shard + 1]

    def tokens(self, width: int) -> RowLayout:
        """The same rows as tokens, one for each of their pixels, row by row."""
        return replace(self, lengths=(self.height * width,), width=width)

    def behind(self, tokens: int) -> TokensAndRows:
        """See `TokenLayout.behind`."""
        return TokensAndRows((tokens, self.total), self.shards, self)

    def ranges(self, shard: int, group: int = 1) -> tuple[tuple[int, int], ...]:
        """See `TokenLayout.ranges`."""
        first, last = self.bounds[shard * group], self.bounds[(shard + 1) * group]
        return ((first * self.width, last * self.width),)


@dataclass(frozen=True)
class TokensAndRows(TokenLayout):
    """Tokens, such as a text's, in front of `rows`; each rank has its shard of them."""

    rows: RowLayout

    def ranges(self, shard: int, group: int = 1) -> tuple[tuple[int, int], ...]:
        """See `TokenLayout.ranges`."""
        front = self.lengths[:1]
        ((first, last),) = self.rows.ranges(shard, group)
        return *TokenLayout(front, self.shards).ranges(shard, group), (front[0] + first, front[0] + last)


def heights_of(height: int, downs: int) -> list[int]:
    """The rows at every resolution of a UNet that halves `height` rows `downs` times, rounding up; most rows first."""
    heights = [height]
    for _ in range(downs):
        heights.append((heights[-1] + 1) // 2)
    return heights


def levels_of(height: int, downs: int, shards: int) -> list[RowLayout]:
    """The row layout at every resolution of a UNet that halves `height` rows `downs` times; highest resolution first.

    Halving rounds up. The rows of the lowest resolution are split as evenly as possible. Each row of a resolution
    covers two rows of the one above, which are on the same rank; so down- and upsampling find their pixels locally, but
    for a halo of one row. There must be a row for every shard.
    """
    heights = heights_of(height, downs)
    lowest = TokenLayout((heights[-1],), shards)
    bounds = (0, *(lowest.ranges(shard)[0][1] for shard in range(shards)))
    levels = [RowLayout.of(bounds)]
    for above in reversed(heights[:-1]):
        bounds = tuple(min(2 * bound, above) for bound in bounds)
        levels.insert(0, RowLayout.of(bounds))
    return levels
