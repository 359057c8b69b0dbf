"""Row ranges cover everything once."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.compression.row_blocks import VALUES, row_blocks


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (521, 256), (1088, 3072), (9, 1 << 18), (4000, 1000)])
def test_blocks_cover_all_rows_in_about_equal_steps(rows, columns):
    """A last block of a few rows would cost as many calls as a full one."""
    x_NC, number_N = torch.empty(rows, columns), torch.arange(rows)
    blocks = []
    for x, numbers in row_blocks(x_NC, number_N):
        assert x.shape == (len(numbers), columns)
        assert not x.numel() or x.data_ptr() == x_NC[numbers[0]].data_ptr()
        blocks.append(numbers.tolist())
    assert [row for block in blocks for row in block] == list(range(rows))
    assert all(len(block) <= VALUES // columns + 1 for block in blocks)
    assert not blocks or len(blocks[0]) - len(blocks[-1]) < len(blocks)
