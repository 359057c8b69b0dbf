"""Splits the rows of a tensor into blocks that fit a CPU's cache, to be processed one after the other."""

from __future__ import annotations

import torch

VALUES = 1 << 18
"""Values per block on a CPU: a few float32 tensors of this size stay in its last-level cache, and there are few enough
blocks that the calls cost little."""


def row_blocks(rows: int, columns: int, device: torch.device) -> list[slice]:
    """Slices that cover `rows` rows. On a CPU they are about equal and hold at most VALUES values, yet at least one
    row; on other devices one slice holds all rows."""
    if rows * columns <= VALUES or device.type != "cpu":
        return [slice(0, rows)] if rows else []
    step = -(-rows // -(-rows * columns // VALUES))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
