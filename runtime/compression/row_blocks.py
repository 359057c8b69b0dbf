"""Splits the rows of tensors into blocks that fit a CPU's cache, to be processed one after the other."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

VALUES = 1 << 18
"""Values per block on a CPU: a few float32 tensors of this size stay in its last-level cache, and there are few enough
blocks that the calls cost little."""


def row_blocks(x_NC: Tensor, *others: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The same rows of each tensor, block after block, as views; all have N rows.

    On a CPU blocks are about equal and hold at most VALUES values of the first tensor, yet at least one row; on other
    devices one block holds all rows.
    """
    rows, columns = x_NC.shape
    if rows * columns <= VALUES or x_NC.device.type != "cpu":
        return [(x_NC, *others)] if rows else []
    step = -(-rows // -(-rows * columns // VALUES))
    return zip(*(x.split(step) for x in (x_NC, *others)))
