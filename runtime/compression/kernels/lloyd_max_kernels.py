"""Triton kernels of the 1, 2, 3 and 4-bit codecs (see `..codecs.lloyd_max`, which defines payload and arithmetic).

Traffic in bytes per value of a 16-bit dtype with one base, b bits (a second base that is used adds 2 per reading pass):

    measure    reads x, base                            4         and 0.3 for partial sums, written and read once
    encode     reads x, base; writes codes, new base    6 + b/8   a program holds its row in registers until the scale
                                                                  is refined, so nothing is read again
    decode     reads codes, base; writes new base       4 + b/8   2 more if x_hat is also written into `outs`

Encoding in all (measure and encode) takes 10 + b/8.

Legend: S tensors, N tokens, C channels, b bits.
"""

# ruff: noqa: ANN001, ANN202 (the arguments of a Triton function have no Python types)

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codecs import lloyd_max as codec
from .message import WIDEST, Message
from .scales import Scales, measure
from .values import (
    BODY,
    ELEMENT,
    LAUNCH,
    OUT,
    STATE,
    X,
    bf16_bits,
    bf16_value,
    expected,
    inverse,
    pointer,
    predictor,
    read,
    reconstruct,
    rows_of,
    store,
    widened,
    width_of,
)

HEAVY_TAIL = tl.constexpr(codec.HEAVY_TAIL)
PADDING = tl.constexpr(codec.ROW)
CELLS = 256
"""Grid cells of the codecs whose thresholds are not at equal distances."""

WIDTH = 1024
"""Values that 4 warps process at once, 8 per thread."""
ROWS = 4
"""Rows per program of `_decode`."""


@triton.jit
def _kind(tails_SP2, tensor, parts, over_sampled, BITS: tl.constexpr):
    """The table of a tensor: 1 for the Laplacian levels, 0 for the Gaussian."""
    if BITS == 1:
        return tensor * 0
    part = tl.arange(0, 256)
    tails = tails_SP2 + (tensor * parts + part) * 2
    square = tl.sum(tl.load(tails, mask=part < parts, other=0.0), axis=0)
    magnitude = tl.sum(tl.load(tails + 1, mask=part < parts, other=0.0), axis=0)
    return (tl.sqrt_rn(square * over_sampled) > HEAVY_TAIL * (magnitude * over_sampled)).to(tl.int32)


@triton.jit
def _cell(z, CELLS: tl.constexpr):
    """The cell of z (in units of a cell): zero is the border of the two middle cells; NaN is in the first cell."""
    cell = z + CELLS // 2
    return tl.minimum(tl.where(cell > 0, cell, 0.0), CELLS - 1.0).to(tl.int32)


@triton.jit
def _planes(table, tensor, tokens, channels):
    """(bytes of a row of one-bit codes, pointer to the codes, pointer to the plane of high bits)."""
    row_bytes = tl.cdiv(channels, PADDING) * (PADDING // 8)
    codes = pointer(table, tensor, BODY, tl.uint8, False) + 2 + 2 * (tokens + channels)
    return row_bytes, codes, codes + tokens * row_bytes * 2


@triton.jit
def _write_codes(row_codes, row_bytes, code, chunk, BITS: tl.constexpr):
    """Stores codes of BITS bits, 8 / BITS per byte, the first in the lowest bits."""
    PER: tl.constexpr = 8 // BITS
    width: tl.constexpr = code.shape[0] // PER
    shift = tl.arange(0, PER) * BITS
    byte = tl.sum(tl.reshape(code, [width, PER]) << shift[None, :], axis=1)
    place = chunk * width + tl.arange(0, width)
    tl.store(row_codes + place, byte.to(tl.uint8), mask=place < row_bytes * BITS)


@triton.jit
def _read_codes(row_codes, row_bytes, chunk, there, BITS: tl.constexpr, WIDTH: tl.constexpr):
    """Loads codes as int32 (WIDTH), the inverse of `_write_codes`; zeros unless `there`."""
    PER: tl.constexpr = 8 // BITS
    width: tl.constexpr = WIDTH // PER
    place = chunk * width + tl.arange(0, width)
    byte = tl.load(row_codes + place, mask=there & (place < row_bytes * BITS), other=0).to(tl.int32)
    code = (byte[:, None] >> (tl.arange(0, PER) * BITS)[None, :]) & ((1 << BITS) - 1)
    return tl.reshape(code, [WIDTH])


@triton.jit(do_not_specialize=["tokens", "parts"])
def _encode(
    table,
    u_SN,
    v_SC,
    inverse_v_SC,
    mean_S,
    tails_SP2,
    levels,
    cell_codes,
    losses,
    tokens,
    channels,
    parts,
    over_sampled,
    element: tl.constexpr,
    aligned: tl.constexpr,
    BITS: tl.constexpr,
    CELLS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Writes codes, refined token scale and new base of one row; losses (S, N, 2): its sums of x^2, (x - x_hat)^2."""
    row, tensor = tl.program_id(0), tl.program_id(1)
    x_row, stride = rows_of(table, tensor, X, element, aligned)
    x_row += row * stride
    predicted_by = predictor(table, tensor, element, aligned)
    state = pointer(table, tensor, STATE, element, aligned)
    body = pointer(table, tensor, BODY, tl.uint16, False)
    row_bytes, codes, high_codes = _planes(table, tensor, tokens, channels)
    kind = _kind(tails_SP2, tensor, parts, over_sampled, BITS)
    levels += kind * ((1 << BITS) + 1)
    cells_per_unit = tl.load(levels)
    u = bf16_value(tl.load(u_SN + tensor * tokens + row))
    inverse_u = inverse(u)
    over_mean = tl.div_rn(1.0, tl.load(mean_S + tensor))

    wanted = tl.zeros([WIDTH], tl.float32)
    available, norm, lost = wanted, wanted, wanted
    held = ()
    for chunk in tl.static_range(CHUNKS):
        column_C = chunk * WIDTH + tl.arange(0, WIDTH)
        inside = column_C < channels
        x = read(x_row + column_C, inside)
        forecast = expected(predicted_by, row * channels + column_C, inside)
        inverse_v = tl.load(inverse_v_SC + tensor * channels + column_C, mask=inside, other=0.0)
        v = tl.load(v_SC + tensor * channels + column_C, mask=inside, other=0.0)
        z = (x - forecast) * inverse_u * inverse_v
        code = _cell(z * cells_per_unit, CELLS)
        if BITS > 2:
            code = tl.load(cell_codes + kind * CELLS + code).to(tl.int32)
        level = tl.load(levels + 1 + code)
        weight = (v * over_mean) * (v * over_mean)
        wanted += z * level * weight
        available += level * level * weight
        norm += x * x
        held = held + ((x, forecast, level, tl.where(inside, code, 0)),)  # noqa: RUF005 (the compiler knows no unpacking)

    total = tl.sum(available, axis=0)
    refined = tl.where(total > 0, tl.div_rn(tl.sum(wanted, axis=0), tl.where(total > 0, total, 1.0)), 1.0)
    bits = bf16_bits(refined * u)
    tl.store(body + 1 + row, bits)
    tl.store(body, kind.to(tl.uint16), mask=row == 0)
    u = bf16_value(bits)

    for chunk in tl.static_range(CHUNKS):
        x, forecast, level, code = held[chunk]
        if BITS == 3:
            _write_codes(codes + row * row_bytes * 2, row_bytes, code & 3, chunk, 2)
            _write_codes(high_codes + row * row_bytes, row_bytes, code >> 2, chunk, 1)
        else:
            _write_codes(codes + row * row_bytes * BITS, row_bytes, code, chunk, BITS)
        column_C = chunk * WIDTH + tl.arange(0, WIDTH)
        inside = column_C < channels
        v = tl.load(v_SC + tensor * channels + column_C, mask=inside, other=0.0)
        stored = reconstruct(level * u * v, forecast, predicted_by[2], element)
        store(state, row * channels + column_C, stored, inside)
        difference = tl.where(inside, x - widened(stored), 0.0)
        lost += difference * difference
    place = losses + (tensor * tokens + row) * 2
    tl.store(place, tl.sum(norm, axis=0))
    tl.store(place + 1, tl.sum(lost, axis=0))


@triton.jit(do_not_specialize=["tokens"])
def _decode(
    table,
    levels,
    tokens,
    channels,
    element: tl.constexpr,
    aligned: tl.constexpr,
    BITS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes x_hat of ROWS rows, WIDTH channels of each, to STATE and to OUT, to each if it exists."""
    chunk, tensor = tl.program_id(1), tl.program_id(2)
    predicted_by = predictor(table, tensor, element, aligned)
    state = pointer(table, tensor, STATE, element, aligned)
    out, stride = rows_of(table, tensor, OUT, element, aligned)
    body = pointer(table, tensor, BODY, tl.uint16, False)
    row_bytes, codes, high_codes = _planes(table, tensor, tokens, channels)
    levels += tl.load(body).to(tl.int32) * ((1 << BITS) + 1)
    column_C = chunk * WIDTH + tl.arange(0, WIDTH)
    v = bf16_value(tl.load(body + 1 + tokens + column_C, mask=column_C < channels, other=0))
    for step in tl.static_range(ROWS):
        row = tl.program_id(0) * ROWS + step
        there = row < tokens
        inside = there & (column_C < channels)
        if BITS == 3:
            code = _read_codes(codes + row * row_bytes * 2, row_bytes, chunk, there, 2, WIDTH)
            code |= _read_codes(high_codes + row * row_bytes, row_bytes, chunk, there, 1, WIDTH) << 2
        else:
            code = _read_codes(codes + row * row_bytes * BITS, row_bytes, chunk, there, BITS, WIDTH)
        level = tl.load(levels + 1 + code)
        u = bf16_value(tl.load(body + 1 + row, mask=there, other=0))
        forecast = expected(predicted_by, row * channels + column_C, inside)
        stored = reconstruct(level * u * v, forecast, predicted_by[2], element)
        store(state, row * channels + column_C, stored, inside)
        store(out, row * stride + column_C, stored, inside)


def encode(message: Message, bits: int) -> Tensor:
    """Encodes `message`. Returns (S, 2): ||x||^2, ||x - x_hat||^2. Raises ValueError if a row is wider than WIDEST."""
    if message.channels > WIDEST:
        raise ValueError(f"Kernels of {bits} bits take up to {WIDEST} channels, not {message.channels}.")
    return quantise(message, bits, measure(message, tails=bits > 1))


def quantise(message: Message, bits: int, scales: Scales) -> Tensor:
    """As `encode`, with given scales; the bodies must already hold v."""
    tensors, tokens, channels = message.tensors, message.tokens, message.channels
    losses = torch.empty(tensors, tokens, 2, device=message.device)
    levels, cell_codes = _constants(bits, message.device)
    cells = 1 << bits if bits < 3 else CELLS
    width = width_of(channels, WIDTH)
    chunks = triton.cdiv(channels, width)
    warps = _warps(width) * (1 if chunks <= 3 else 2 if chunks <= 6 else 4)
    _encode[(tokens, tensors)](
        message.table, scales.u_SN, scales.v_SC, scales.inverse_v_SC, scales.mean_S, scales.tails_SP2, levels,
        cell_codes, losses, tokens, channels, scales.tails_SP2.shape[1], 1 / scales.sampled, ELEMENT[message.dtype],
        message.aligned, bits, cells, width, chunks, num_warps=warps, **LAUNCH,
    )  # fmt: skip
    return losses.sum(1)


def decode(message: Message, bits: int) -> None:
    """Decodes `message`: writes x_hat to its STATE and OUT tensors."""
    width = width_of(message.channels, WIDTH)
    grid = triton.cdiv(message.tokens, ROWS), triton.cdiv(message.channels, width), message.tensors
    levels, _ = _constants(bits, message.device)
    _decode[grid](
        message.table, levels, message.tokens, message.channels, ELEMENT[message.dtype], message.aligned, bits, width,
        ROWS, num_warps=_warps(width), **LAUNCH,
    )  # fmt: skip


def _warps(width: int) -> int:
    """Warps for a tile with 8 values per thread."""
    return max(1, width // 256)


@lru_cache
def _constants(bits: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per table (Gaussian, Laplacian): cells per unit, then the levels, float32; and the code of each cell, uint8."""
    both = codec.GAUSS[bits], codec.LAPLACE[bits]
    grids = [codec._Grid(positive) for positive in both]
    levels = [
        [grid._cells_per_unit, *(-level for level in reversed(positive)), *positive]
        for grid, positive in zip(grids, both)
    ]
    codes = [torch.zeros(CELLS, dtype=torch.uint8) if grid._code is None else grid._code for grid in grids]
    return torch.tensor(levels, device=device), torch.stack(codes).to(device)
