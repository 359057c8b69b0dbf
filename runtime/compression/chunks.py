"""Row ranges to work through one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch

VALUES = 1 << 18
"""Values per range on a CPU: a few float32 tensors of them stay in its last cache, and the calls cost little."""


def row_chunks(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Slices that cover `rows` rows: about equal ones of at most VALUES values (one row at least) on a CPU, all at once
    elsewhere."""
    parts = max(1, -(-rows * columns // VALUES)) if device.type == "cpu" else 1
    step = max(1, -(-rows // parts))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
