"""Triton kernels of the codecs with blocks of 32 values (see `..codecs.block`, which defines payload and arithmetic).

Traffic in bytes per value of a 16-bit dtype with one base (a second base that is used adds 2):

    fit        reads x, base                                       4
    encode     reads x, base; writes scales, q and the new base    7 + 1/16
    decode     reads scales, q, base; writes the new base          5 + 1/16    2 more where `outs` are written as well

float8 is converted in integers: Triton has no such conversion for sm_80, and every device must give the same bits.

Legend: S tensors, N tokens, C channels, K blocks.
"""

# ruff: noqa: ANN001, ANN202 (the arguments of a Triton function have no Python types)

from __future__ import annotations

import triton
import triton.language as tl

from ..codecs import block as codec
from .fit import fit, write
from .message import Message
from .values import (
    BODY,
    CHECKSUM,
    ELEMENT,
    HEADER_WORDS,
    LAUNCH,
    OUT,
    SMALLEST_SCALE,
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
)

BLOCK = tl.constexpr(codec.BLOCK)
BLOCKS = 64
"""Blocks per program."""


@triton.jit
def _round(value):
    """Rounds values up to 2^22 in magnitude to the nearest integer, ties to even."""
    return (value + 12582912.0) - 12582912.0


@triton.jit
def _to_bytes(scaled, FLOAT8: tl.constexpr):
    """q as uint8, for values within the range of q."""
    if not FLOAT8:
        return _round(scaled).to(tl.int32).to(tl.uint8)
    bits = scaled.to(tl.uint32, bitcast=True)
    sign = (bits >> 24) & 0x80
    bits = bits & 0x7FFFFFFF
    normal = (bits + 0x7FFFF + ((bits >> 20) & 1) - (120 << 23)) >> 20
    subnormal = (bits.to(tl.float32, bitcast=True) + 16384.0).to(tl.uint32, bitcast=True) - 0x46800000
    return (sign | tl.where(bits < (121 << 23), subnormal, normal)).to(tl.uint8)


@triton.jit
def _to_values(q, FLOAT8: tl.constexpr):
    """The values (float32) of q (uint8)."""
    if not FLOAT8:
        return q.to(tl.int8, bitcast=True).to(tl.float32)
    wide = q.to(tl.uint32)
    magnitude = ((wide & 0x7F) << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36
    return tl.where(wide < 0x80, magnitude, -magnitude)


@triton.jit
def _places(channels, values, stride, EVEN: tl.constexpr, BLOCKS: tl.constexpr):
    """(block, place, offset, inside) of a program's values: their block numbers, their indices in a contiguous (N, C)
    tensor and in one whose rows are `stride` apart, and the mask of values that exist. If rows are whole blocks, one
    division per block is enough."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    lane = tl.arange(0, BLOCK)[None, :]
    place = block[:, None] * BLOCK + lane
    if EVEN:
        per_row = channels // BLOCK
        offset = (block // per_row)[:, None] * stride + (block % per_row)[:, None] * BLOCK + lane
        inside = (block < values // BLOCK)[:, None] & (lane < BLOCK)
    else:
        offset = (place // channels) * stride + place % channels
        inside = place < values
    return block, place, offset, inside


@triton.jit
def _parts(table, tensor, values, EVEN: tl.constexpr):
    """(number of blocks, pointer to the scales, pointer to q)."""
    blocks = tl.cdiv(values, BLOCK)
    start = 2 * blocks
    if EVEN:
        start = tl.multiple_of(start, 16)
    return blocks, pointer(table, tensor, BODY, tl.uint16, EVEN), pointer(table, tensor, BODY, tl.uint8, EVEN) + start


@triton.jit
def _in_body(scale_bits, q, block, place, inside, blocks):
    """The part of these blocks in the checksum of the body."""
    of_q = tl.where(inside, q.to(tl.int64) << (8 * ((2 * blocks + place) % 4)).to(tl.int64), 0)
    return in_words(scale_bits, block, 2, block < blocks) + tl.sum(tl.sum(of_q, axis=1), axis=0)


@triton.jit(do_not_specialize=["values"])
def _encode(
    table,
    channels,
    values,
    element: tl.constexpr,
    aligned: tl.constexpr,
    EVEN: tl.constexpr,
    LARGEST: tl.constexpr,
    FLOAT8: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Writes scales, q and new base of BLOCKS blocks, and adds (x - x_hat)^2 to the record."""
    tensor = tl.program_id(1)
    x_rows, stride = rows_of(table, tensor, X, element, aligned)
    block, place, offset, inside = _places(channels, values, stride, EVEN, BLOCKS)
    blocks, scales, codes = _parts(table, tensor, values, EVEN)
    predicted_by = predictor(table, tensor, element, aligned)
    x = read(x_rows + offset, inside)
    forecast = expected(predicted_by, place, inside)
    d = x - forecast
    scale = bf16_value(bf16_bits(tl.div_rn(tl.max(tl.abs(d), axis=1), LARGEST * 1.0)))
    scale = tl.where(scale >= SMALLEST_SCALE, scale, 0.0)
    q = _to_bytes(tl.minimum(tl.maximum(d * inverse(scale)[:, None], -LARGEST * 1.0), LARGEST * 1.0), FLOAT8)
    scale_bits = bf16_bits(scale)
    tl.store(scales + block, scale_bits, mask=block < blocks)
    tl.store(codes + place, q, mask=inside)
    add_to_checksum(header_of(table, tensor) + CHECKSUM, _in_body(scale_bits, q, block, place, inside, blocks))
    stored = reconstruct(_to_values(q, FLOAT8) * scale[:, None], forecast, predicted_by[2], element, True)
    store(pointer(table, tensor, STATE, element, aligned), place, stored, inside)
    difference = tl.where(inside, x - widened(stored), 0.0)
    add_lost(table, tensor, tl.sum(tl.sum(difference * difference, axis=1), axis=0))


@triton.jit(do_not_specialize=["values"])
def _decode(
    table,
    channels,
    values,
    element: tl.constexpr,
    aligned: tl.constexpr,
    EVEN: tl.constexpr,
    FLOAT8: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Writes x_hat of BLOCKS blocks to STATE and to OUT, to each if it exists. The record gets the header and the
    checksum of the body."""
    tensor = tl.program_id(1)
    copy_header(table, tensor, tl.program_id(0) == 0)
    out, stride = rows_of(table, tensor, OUT, element, aligned)
    block, place, offset, inside = _places(channels, values, stride, EVEN, BLOCKS)
    blocks, scales, codes = _parts(table, tensor, values, EVEN)
    predicted_by = predictor(table, tensor, element, aligned)
    scale_bits = tl.load(scales + block, mask=block < blocks, other=0)
    scale = bf16_value(scale_bits)
    q = tl.load(codes + place, mask=inside, other=0)
    in_body = _in_body(scale_bits, q, block, place, inside, blocks)
    add_to_checksum(record_of(table, tensor) + HEADER_WORDS, in_body)
    forecast = expected(predicted_by, place, inside)
    finite = is_finite(table, tensor)
    stored = reconstruct(_to_values(q, FLOAT8) * scale[:, None], forecast, predicted_by[2], element, finite)
    store(pointer(table, tensor, STATE, element, aligned), place, stored, inside)
    store(out, offset, stored, inside)


def encode(message: Message, largest: int, float8: bool) -> None:
    """Encodes `message`: writes headers, bodies, new bases and records. `largest` is the largest magnitude of q, which
    is float8_e4m3fn if `float8`, else int8."""
    values, grid, even = _geometry(message)
    write(message, fit(message))
    _encode[grid](
        message.table, message.channels, values, ELEMENT[message.dtype], message.aligned, even, largest, float8,
        BLOCKS, num_warps=4, **LAUNCH,
    )  # fmt: skip


def decode(message: Message, float8: bool) -> None:
    """Decodes `message`: writes x_hat to its STATE and OUT tensors, and the records."""
    values, grid, even = _geometry(message)
    _decode[grid](
        message.table, message.channels, values, ELEMENT[message.dtype], message.aligned, even, float8, BLOCKS,
        num_warps=4, **LAUNCH,
    )  # fmt: skip


def _geometry(message: Message) -> tuple[int, tuple[int, int], bool]:
    """(values per tensor, grid, whether rows are whole blocks and q starts at a multiple of 16 bytes)."""
    values = message.tokens * message.channels
    even = message.channels % codec.BLOCK == 0 and values % (8 * codec.BLOCK) == 0
    return values, (triton.cdiv(values, codec.BLOCK * BLOCKS), message.tensors), even
