"""Splits the rows of a tensor into ranges that fit a CPU's cache, to be processed one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch

VALUES = 1 << 18
"""Values per range on a CPU: a few float32 tensors of this size stay in its last-level cache, and there are few enough
ranges that the calls cost little."""


def row_chunks(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Slices that cover `rows` rows. On a CPU they are about equal and hold at most VALUES values, yet at least one
    row; on other devices one slice holds all rows."""
    parts = max(1, -(-rows * columns // VALUES)) if device.type == "cpu" else 1
    step = max(1, -(-rows // parts))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
