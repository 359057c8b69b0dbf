"""Triton kernel that fits the predictor (see `..predict.fit`, which defines it).

Traffic in bytes per value of a 16-bit dtype: 2 for x, 2 for the base and 2 for the older base, if they exist.

Legend: S tensors, N tokens, C channels.
"""

# ruff: noqa: ANN001, ANN202 (the arguments of a Triton function have no Python types)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .message import Message
from .values import BASE, ELEMENT, LAUNCH, PREVIOUS, X, pointer, read, rows_of, tile_of, width_of

TILE = 1024
"""Values that a program (one warp) reads at once."""
STEPS = 8
"""Tiles, one below the other, that a program sums up."""


@triton.jit(do_not_specialize=["tokens"])
def _fit(
    table,
    sums,
    tokens,
    channels,
    element: tl.constexpr,
    aligned: tl.constexpr,
    BASES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Writes to sums (S, programs, 4): <x, x>, <m, m>, <m, t>, <t, t> of each program's tiles, with m = x - base and
    t = base - previous base."""
    down, across, tensor = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    x_rows, stride = rows_of(table, tensor, X, element, aligned)
    base_rows = pointer(table, tensor, BASE, element, aligned)
    previous_rows = pointer(table, tensor, PREVIOUS, element, aligned)
    column_C = across * WIDTH + tl.arange(0, WIDTH)
    norm = tl.zeros([WIDTH], tl.float32)
    missing, wanted, available = norm, norm, norm
    for step in range(STEPS):
        row_N = (down * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside, place, offset = tile_of(row_N, column_C, tokens, channels, stride)
        x = read(x_rows + offset, inside)
        norm += tl.sum(x * x, axis=0)
        if BASES > 0:
            base = read(base_rows + place, inside)
            missing += tl.sum((x - base) * (x - base), axis=0)
        if BASES > 1:
            trend = base - read(previous_rows + place, inside)
            wanted += tl.sum((x - base) * trend, axis=0)
            available += tl.sum(trend * trend, axis=0)
    if BASES == 0:
        missing = norm
    program = sums + ((tensor * tl.num_programs(0) + down) * tl.num_programs(1) + across) * 4
    tl.store(program, tl.sum(norm, axis=0))
    tl.store(program + 1, tl.sum(missing, axis=0))
    tl.store(program + 2, tl.sum(wanted, axis=0))
    tl.store(program + 3, tl.sum(available, axis=0))


def fit(message: Message, bases: int) -> Tensor:
    """(S, 4) float32: <x, x>, <m, m>, <m, t>, <t, t>, with m = x - base and t = base - previous base."""
    width = width_of(message.channels, widest=256)
    rows = TILE // width
    grid = triton.cdiv(message.tokens, rows * STEPS), triton.cdiv(message.channels, width), message.tensors
    sums = torch.empty(message.tensors, grid[0] * grid[1], 4, device=message.device)
    _fit[grid](
        message.table, sums, message.tokens, message.channels, ELEMENT[message.dtype], message.aligned, bases, rows,
        width, STEPS, num_warps=1, **LAUNCH,
    )  # fmt: skip
    return sums.sum(1)
