import itertools

import pytest
import torch
from compact_parallel.runtime.attention.layout import TokenLayout

CASES = list(itertools.product([(7,), (5, 11), (1, 9), (3, 4, 8), (6, 12)], [1, 2, 3, 4]))


@pytest.mark.parametrize("lengths,parts", CASES)
def test_split_agrees_with_tensor_split(lengths, parts):
    layout = TokenLayout(lengths, parts)
    x = torch.arange(sum(lengths))
    segments = x.split(list(lengths))
    for part in range(parts):
        expected = [torch.tensor_split(segment, parts)[part] for segment in segments]
        assert layout.local(part) == tuple(len(e) for e in expected)
        assert torch.equal(layout.split_joint(x, 0, part), torch.cat(expected))
        for i, segment in enumerate(segments):
            assert torch.equal(layout.split(segment, i, 0, part), expected[i])
    joined = torch.cat([layout.split_joint(x, 0, part) for part in range(parts)])
    assert torch.equal(layout.gathered(x, 0), joined)
    assert torch.equal(layout.restored(joined, 0), x)
    if parts > 1 and len(lengths) > 1 and min(lengths) > 1:
        assert not torch.equal(layout.restored(x, 0), x)


def test_merged_groups_keep_segments_together():
    layout = TokenLayout((5, 11), 4)
    assert layout.local(0, group=2) == (3, 6)
    assert layout.local(1, group=2) == (2, 5)
    order = layout.gathered(torch.arange(16), 0, group=2)
    assert order[:9].tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10]
    assert torch.equal(layout.restored(order, 0, group=2), torch.arange(16))
    assert not torch.equal(order, layout.gathered(torch.arange(16), 0))


def test_a_split_is_a_copy():
    x = torch.zeros(1, 4, 2)
    TokenLayout((4,), 2).split(x, 0, 1, 0).add_(1)
    assert not x.any()
