"""Triton kernels of the 1, 2, 3 and 4-bit codecs (see `..codecs.lloyd_max`, which defines payload and arithmetic).

Traffic in bytes per value of a 16-bit dtype with one base, b bits (a second base that is used adds 2 per reading pass):

    fit        reads x, base                            4
    measure    reads x, base                            4         and 0.3 for partial sums, written and read once
    encode     reads x, base; writes codes, new base    6 + b/8   a program holds its row in registers until the scale
                                                                  is refined, so nothing is read again
    decode     reads codes, base; writes new base       4 + b/8   2 more if x_hat is also written into `outs`

Encoding in all takes 14 + b/8.

Every program adds the words that it has written, or read, to a checksum.

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
from .fit import fit
from .message import WIDEST, Message
from .scales import Scales, measure
from .values import (
    BODY,
    CHECKSUM,
    ELEMENT,
    HEADER_WORDS,
    LAUNCH,
    OUT,
    STATE,
    X,
    add_lost,
    add_to_checksum,
    bf16_bits,
    bf16_value,
    copy_header,
    expected,
    header_of,
    in_words,
    inverse,
    is_finite,
    pointer,
    predictor,
    read,
    reconstruct,
    record_of,
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
    """(bytes of a row of one-bit codes, the body, the offsets in it of the codes and of the plane of high bits)."""
    row_bytes = tl.cdiv(channels, PADDING) * (PADDING // 8)
    codes = 2 + 2 * (tokens + channels)
    return row_bytes, pointer(table, tensor, BODY, tl.uint8, False), codes, codes + tokens * row_bytes * 2


@triton.jit
def _write_codes(body, start, row_bytes, code, chunk, BITS: tl.constexpr):
    """Stores codes of BITS bits, 8 / BITS per byte, the first in the lowest bits, in the row that starts at offset
    `start`. Returns their part in the checksum."""
    PER: tl.constexpr = 8 // BITS
    width: tl.constexpr = code.shape[0] // PER
    shift = tl.arange(0, PER) * BITS
    byte = tl.sum(tl.reshape(code, [width, PER]) << shift[None, :], axis=1)
    place = chunk * width + tl.arange(0, width)
    inside = place < row_bytes * BITS
    tl.store(body + start + place, byte.to(tl.uint8), mask=inside)
    return in_words(byte, start + place, 1, inside)


@triton.jit
def _read_codes(body, start, row_bytes, chunk, there, BITS: tl.constexpr, WIDTH: tl.constexpr):
    """Loads codes as int32 (WIDTH), the inverse of `_write_codes`; zeros unless `there`. Returns them and their part in
    the checksum."""
    PER: tl.constexpr = 8 // BITS
    width: tl.constexpr = WIDTH // PER
    place = chunk * width + tl.arange(0, width)
    inside = there & (place < row_bytes * BITS)
    byte = tl.load(body + start + place, mask=inside, other=0).to(tl.int32)
    code = (byte[:, None] >> (tl.arange(0, PER) * BITS)[None, :]) & ((1 << BITS) - 1)
    return tl.reshape(code, [WIDTH]), in_words(byte, start + place, 1, inside)


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
    """Writes codes, refined token scale and new base of one row, and adds (x - x_hat)^2 to the record."""
    row, tensor = tl.program_id(0), tl.program_id(1)
    x_row, stride = rows_of(table, tensor, X, element, aligned)
    x_row += row * stride
    predicted_by = predictor(table, tensor, element, aligned)
    state = pointer(table, tensor, STATE, element, aligned)
    scales = pointer(table, tensor, BODY, tl.uint16, False)
    row_bytes, body, codes, high_codes = _planes(table, tensor, tokens, channels)
    kind = _kind(tails_SP2, tensor, parts, over_sampled, BITS)
    levels += kind * ((1 << BITS) + 1)
    cells_per_unit = tl.load(levels)
    u = bf16_value(tl.load(u_SN + tensor * tokens + row))
    inverse_u = inverse(u)
    over_mean = tl.div_rn(1.0, tl.load(mean_S + tensor))

    wanted = tl.zeros([WIDTH], tl.float32)
    available, lost = wanted, wanted
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
        held = held + ((x, forecast, level, tl.where(inside, code, 0)),)  # noqa: RUF005 (the compiler knows no unpacking)

    total = tl.sum(available, axis=0)
    refined = tl.where(total > 0, tl.div_rn(tl.sum(wanted, axis=0), tl.where(total > 0, total, 1.0)), 1.0)
    bits = bf16_bits(refined * u)
    tl.store(scales + 1 + row, bits)
    tl.store(scales, kind.to(tl.uint16), mask=row == 0)
    in_body = (bits.to(tl.int64) << (16 * ((1 + row) % 2)).to(tl.int64)) + tl.where(row == 0, kind, 0)
    u = bf16_value(bits)

    for chunk in tl.static_range(CHUNKS):
        x, forecast, level, code = held[chunk]
        if BITS == 3:
            in_body += _write_codes(body, codes + row * row_bytes * 2, row_bytes, code & 3, chunk, 2)
            in_body += _write_codes(body, high_codes + row * row_bytes, row_bytes, code >> 2, chunk, 1)
        else:
            in_body += _write_codes(body, codes + row * row_bytes * BITS, row_bytes, code, chunk, BITS)
        column_C = chunk * WIDTH + tl.arange(0, WIDTH)
        inside = column_C < channels
        v = tl.load(v_SC + tensor * channels + column_C, mask=inside, other=0.0)
        stored = reconstruct(level * u * v, forecast, predicted_by[2], element, True)
        store(state, row * channels + column_C, stored, inside)
        difference = tl.where(inside, x - widened(stored), 0.0)
        lost += difference * difference
    add_to_checksum(header_of(table, tensor) + CHECKSUM, in_body)
    add_lost(table, tensor, tl.sum(lost, axis=0))


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
    """Writes x_hat of ROWS rows, WIDTH channels of each, to STATE and to OUT, to each if it exists. The record gets the
    header and the checksum of the body."""
    chunk, tensor = tl.program_id(1), tl.program_id(2)
    copy_header(table, tensor, tl.program_id(0) + chunk == 0)
    finite = is_finite(table, tensor)
    predicted_by = predictor(table, tensor, element, aligned)
    state = pointer(table, tensor, STATE, element, aligned)
    out, stride = rows_of(table, tensor, OUT, element, aligned)
    scales = pointer(table, tensor, BODY, tl.uint16, False)
    row_bytes, body, codes, high_codes = _planes(table, tensor, tokens, channels)
    kind = tl.load(scales).to(tl.int32)
    levels += tl.minimum(kind, 1) * ((1 << BITS) + 1)
    column_C = chunk * WIDTH + tl.arange(0, WIDTH)
    v_bits = tl.load(scales + 1 + tokens + column_C, mask=column_C < channels, other=0)
    v = bf16_value(v_bits)
    once = (column_C < channels) & (tl.program_id(0) == 0)
    in_body = in_words(v_bits, 1 + tokens + column_C, 2, once) + tl.where(tl.program_id(0) + chunk == 0, kind, 0)
    for step in tl.static_range(ROWS):
        row = tl.program_id(0) * ROWS + step
        there = row < tokens
        inside = there & (column_C < channels)
        if BITS == 3:
            code, low = _read_codes(body, codes + row * row_bytes * 2, row_bytes, chunk, there, 2, WIDTH)
            more, high = _read_codes(body, high_codes + row * row_bytes, row_bytes, chunk, there, 1, WIDTH)
            code, in_body = code | (more << 2), in_body + low + high
        else:
            code, all_bits = _read_codes(body, codes + row * row_bytes * BITS, row_bytes, chunk, there, BITS, WIDTH)
            in_body += all_bits
        level = tl.load(levels + 1 + code)
        u_bits = tl.load(scales + 1 + row, mask=there, other=0)
        in_body += tl.where(chunk == 0, u_bits.to(tl.int64) << (16 * ((1 + row) % 2)).to(tl.int64), 0)
        u = bf16_value(u_bits)
        forecast = expected(predicted_by, row * channels + column_C, inside)
        stored = reconstruct(level * u * v, forecast, predicted_by[2], element, finite)
        store(state, row * channels + column_C, stored, inside)
        store(out, row * stride + column_C, stored, inside)
    add_to_checksum(record_of(table, tensor) + HEADER_WORDS, in_body)


def encode(message: Message, bits: int) -> None:
    """Encodes `message`: writes headers, bodies, new bases and records. Raises ValueError if a row is wider than
    WIDEST."""
    if message.channels > WIDEST:
        raise ValueError(f"Kernels of {bits} bits take up to {WIDEST} channels, not {message.channels}.")
    quantise(message, bits, measure(message, fit(message), tails=bits > 1))


def quantise(message: Message, bits: int, scales: Scales) -> None:
    """As `encode`, with given scales; the message must already hold v and the fit."""
    tensors, tokens, channels = message.tensors, message.tokens, message.channels
    levels, cell_codes = _constants(bits, message.device)
    cells = 1 << bits if bits < 3 else CELLS
    width = width_of(channels, WIDTH)
    chunks = triton.cdiv(channels, width)
    warps = _warps(width) * (1 if chunks <= 3 else 2 if chunks <= 6 else 4)
    _encode[(tokens, tensors)](
        message.table, scales.u_SN, scales.v_SC, scales.inverse_v_SC, scales.mean_S, scales.tails_SP2, levels,
        cell_codes, tokens, channels, scales.tails_SP2.shape[1], 1 / scales.sampled, ELEMENT[message.dtype],
        message.aligned, bits, cells, width, chunks, num_warps=warps, **LAUNCH,
    )  # fmt: skip


def decode(message: Message, bits: int) -> None:
    """Decodes `message`: writes x_hat to its STATE and OUT tensors, and the records."""
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
    none = torch.zeros(CELLS, dtype=torch.uint8)
    codes = [none if grid.codes_of_cells is None else grid.codes_of_cells.on(none.device) for grid in grids]
    return torch.tensor(levels, device=device), torch.stack(codes).to(device)
