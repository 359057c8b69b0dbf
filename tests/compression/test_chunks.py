"""Row ranges cover everything once."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.compression.chunks import VALUES, row_chunks


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (521, 256), (1088, 3072), (9, 1 << 18), (4000, 1000)])
def test_chunks_cover_all_rows_in_about_equal_steps(rows, columns):
    """A last chunk of a few rows would cost as many calls as a full one."""
    chunks = [range(rows)[chunk] for chunk in row_chunks(rows, columns, torch.device("cpu"))]
    assert [row for chunk in chunks for row in chunk] == list(range(rows))
    assert all(len(chunk) <= VALUES // columns + 1 for chunk in chunks)
    assert not chunks or len(chunks[0]) - len(chunks[-1]) < len(chunks)
