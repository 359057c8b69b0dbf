"""Which rows lie where, and the statistics of parts put together: what needs no ranks."""

from itertools import pairwise

import pytest
import torch
from compact_parallel.runtime.sharding.rows.halo_ops import combined
from compact_parallel.runtime.sharding.rows.row_layout import levels_of
from torch.nn.functional import interpolate


def test_every_resolution_is_split_in_order_and_as_evenly_as_the_lowest_allows():
    levels = levels_of(45, downs=2, shards=3)
    assert [level.bounds for level in levels] == [(0, 16, 32, 45), (0, 8, 16, 23), (0, 4, 8, 12)]
    assert [levels[0].chunk(part) for part in range(3)] == [16, 16, 13]
    assert levels[2].tokens(7).ranges(1) == ((28, 56),)
    assert levels[2].tokens(7).total == 84


@pytest.mark.parametrize("parts", (2, 3, 5))
def test_what_is_made_larger_finds_its_pixels_on_its_own_rank(parts):
    """As torch rounds them: for all heights, odd ones among them."""
    for height in range(parts * 8 - 7, 300):
        levels = levels_of(height, downs=3, shards=parts)
        for level, below in pairwise(levels):
            rows = torch.arange(below.height, dtype=torch.float32)[None, None, :, None]
            larger = interpolate(rows, size=(level.height, 1), mode="nearest")
            for part in range(parts):
                (first, last), (below_first, below_last) = level.rows(part), below.rows(part)
                own = interpolate(rows[:, :, below_first:below_last], size=(last - first, 1), mode="nearest")
                assert last > first
                assert torch.equal(own, larger[:, :, first:last]), (height, part)


def test_statistics_of_uneven_parts_where_the_mean_is_large():
    """The mean of squares less the square of the mean would be off by more than the variance itself."""
    values = torch.randn(100, generator=torch.Generator().manual_seed(1)) + 1e4
    parts = values.split([50, 37, 13])
    means, variances = (torch.stack(each) for each in zip(*((p.mean(), p.var(correction=0)) for p in parts)))
    mean, variance = combined(means, variances, torch.tensor([0.50, 0.37, 0.13]))
    expected = values.double().var(correction=0)
    assert abs(float(mean) - 1e4) < 1
    assert abs(float(variance / expected) - 1) < 1e-3
    naive = (values**2).mean() - values.mean() ** 2
    assert abs(float(naive / expected) - 1) > 1
