"""Row ranges to work through one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch

VALUES = 1 << 16
"""Values per range on a CPU, so that a few float32 tensors of them stay in its cache."""


def row_chunks(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Slices that cover `rows` rows: of about VALUES values each on a CPU, all at once elsewhere.

    All but the last have a multiple of 8 rows, so that codes of any width fill whole bytes.
    """
    step = max(8, VALUES // columns // 8 * 8) if device.type == "cpu" else max(rows, 1)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
