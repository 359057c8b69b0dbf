"""Triton kernels that fit the predictor (see `..predict.fit`, which defines it) and write the header of each tensor.

Traffic in bytes per value of a 16-bit dtype: 2 for x, 2 for the base and 2 for the older base, if they exist.

Legend: S tensors, N tokens, C channels, P programs.
"""

# ruff: noqa: ANN001, ANN201, ANN202, PLR0124 (the arguments of a Triton function have no Python types)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import message as layout
from .message import Message
from .values import (
    BASE,
    BODY,
    CHECKSUM,
    ELEMENT,
    FINITE,
    FLAGS,
    HEADER_WORDS,
    LAUNCH,
    PREVIOUS,
    K,
    X,
    header_of,
    pointer,
    read,
    record_of,
    rows_of,
    tile_of,
    width_of,
)

TILE = 4096
"""Values that a program (four warps) reads at once."""
PROGRAMS = 128
"""The most programs per tensor; their sums are few enough that every program of the next kernel adds them up."""
SUMS = tl.constexpr(5)
PADDING = tl.constexpr(layout.ALIGNMENT)


@triton.jit(do_not_specialize=["tokens", "payload"])
def _fit(
    table,
    sums,
    tokens,
    channels,
    payload,
    element: tl.constexpr,
    aligned: tl.constexpr,
    BASES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Writes to sums (S, P, 5): <x, x>, <m, m>, <m, t>, <t, t> of each program's tiles, with m = x - base and t = base
    - previous base, and 0, or NaN if a value is not finite. The first program also writes the template of the header,
    and zeros behind the payload."""
    program, tensor = tl.program_id(0), tl.program_id(1)
    x_rows, stride = rows_of(table, tensor, X, element, aligned)
    base_rows = pointer(table, tensor, BASE, element, aligned)
    previous_rows = pointer(table, tensor, PREVIOUS, element, aligned)
    across = tl.cdiv(channels, WIDTH)
    tiles = tl.cdiv(tokens, ROWS) * across
    norm = tl.zeros([WIDTH], tl.float32)
    missing, wanted, available, odd = norm, norm, norm, norm
    tile = program
    while tile < tiles:
        row_N = (tile // across) * ROWS + tl.arange(0, ROWS)
        column_C = (tile % across) * WIDTH + tl.arange(0, WIDTH)
        inside, place, offset = tile_of(row_N, column_C, tokens, channels, stride)
        x = read(x_rows + offset, inside)
        norm += tl.sum(x * x, axis=0)
        odd += tl.sum(x - x, axis=0)
        if BASES > 0:
            base = read(base_rows + place, inside)
            missing += tl.sum((x - base) * (x - base), axis=0)
        if BASES > 1:
            trend = base - read(previous_rows + place, inside)
            wanted += tl.sum((x - base) * trend, axis=0)
            available += tl.sum(trend * trend, axis=0)
        tile += tl.num_programs(0)
    own = sums + (tensor * tl.num_programs(0) + program) * SUMS
    tl.store(own, tl.sum(norm, axis=0))
    tl.store(own + 1, tl.sum(missing, axis=0))
    tl.store(own + 2, tl.sum(wanted, axis=0))
    tl.store(own + 3, tl.sum(available, axis=0))
    tl.store(own + 4, tl.sum(odd, axis=0))
    if program == 0:
        word = tl.arange(0, HEADER_WORDS)
        tl.store(header_of(table, tensor) + word, tl.load(record_of(table, tensor) + word))
        behind = payload + tl.arange(0, PADDING)
        body = pointer(table, tensor, BODY, tl.uint8, False)
        zeros = tl.zeros([PADDING], tl.int32).to(tl.uint8)
        tl.store(body + behind, zeros, mask=behind < tl.cdiv(payload, PADDING) * PADDING)


@triton.jit
def solve(sums, tensor, programs, BASES: tl.constexpr, PROGRAMS: tl.constexpr):
    """(bases that the prediction uses, k, relative size of the residual, ||x||^2, whether all values are finite), from
    the sums that `_fit` has written."""
    program = tl.arange(0, PROGRAMS)
    there = program < programs
    of = sums + (tensor * programs + program) * SUMS
    norm = tl.sum(tl.load(of, mask=there, other=0.0), axis=0)
    missing = tl.sum(tl.load(of + 1, mask=there, other=0.0), axis=0)
    wanted = tl.sum(tl.load(of + 2, mask=there, other=0.0), axis=0)
    available = tl.sum(tl.load(of + 3, mask=there, other=0.0), axis=0)
    finite = tl.sum(tl.load(of + 4, mask=there, other=0.0), axis=0) == 0
    solvable = (available > 0) & (available < float("inf")) & (wanted == wanted)
    k = tl.div_rn(tl.where(solvable, wanted, 0.0), tl.where(solvable, available, 1.0))
    k = tl.minimum(tl.maximum(k, -1.0), 1.0)
    missing = missing - 2 * k * wanted + k * k * available
    uses = (missing < norm) & finite & (BASES > 0)
    share = tl.div_rn(tl.maximum(missing, 0.0), tl.where(norm > 0, norm, 1.0))
    relative = tl.where(uses & (norm < float("inf")), tl.sqrt_rn(share), 1.0)
    return tl.where(uses, BASES, 0), tl.where(uses, k, 0.0), relative, norm, finite


@triton.jit
def write_fit(table, tensor, use, k, relative, norm, finite):
    """Writes the results of `solve` into the header and the record of a tensor."""
    header, record = header_of(table, tensor), record_of(table, tensor)
    k_bits, flags = k.to(tl.int32, bitcast=True), use + tl.where(finite, FINITE, 0)
    total = tl.load(header + CHECKSUM).to(tl.int64) + k_bits.to(tl.int64) + flags.to(tl.int64)
    tl.store(header + K, k_bits)
    tl.store(header + FLAGS, flags)
    tl.store(header + CHECKSUM, total.to(tl.int32))
    tl.store(record + K, k_bits)
    tl.store(record + FLAGS, flags)
    tl.store(record + HEADER_WORDS, relative.to(tl.int32, bitcast=True))
    tl.store(record + HEADER_WORDS + 1, norm.to(tl.int32, bitcast=True))


@triton.jit(do_not_specialize=["programs"])
def _write(table, sums, programs, BASES: tl.constexpr, PROGRAMS: tl.constexpr):
    """Writes header and record of one tensor, for codecs whose first kernel does not."""
    tensor = tl.program_id(0)
    use, k, relative, norm, finite = solve(sums, tensor, programs, BASES, PROGRAMS)
    write_fit(table, tensor, use, k, relative, norm, finite)


def fit(message: Message) -> Tensor:
    """The sums (S, P, 5) of each program; see `_fit`. The headers become their templates."""
    width = width_of(message.channels, widest=512)
    rows = TILE // width
    tiles = triton.cdiv(message.tokens, rows) * triton.cdiv(message.channels, width)
    programs = min(PROGRAMS, tiles)
    sums = torch.empty(message.tensors, programs, SUMS.value, device=message.device)
    _fit[(programs, message.tensors)](
        message.table, sums, message.tokens, message.channels, message.payload, ELEMENT[message.dtype],
        message.aligned, message.bases, rows, width, num_warps=4, **LAUNCH,
    )  # fmt: skip
    return sums


def write(message: Message, sums: Tensor) -> None:
    """Completes the headers, but for the checksums of the bodies, and the first words of the records."""
    _write[(message.tensors,)](message.table, sums, sums.shape[1], message.bases, PROGRAMS, num_warps=4, **LAUNCH)
