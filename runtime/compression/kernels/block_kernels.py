"""Triton kernels of the codecs with blocks of 32 values (see `..codecs.block`, which defines payload and arithmetic).

Traffic in bytes per value of a 16-bit dtype with one base (a second base that is used adds 2):

    encode     reads x, base; writes scales, q and the new base    7 + 1/16
    decode     reads scales, q, base; writes the new base          5 + 1/16    2 more where `outs` are written as well

float8 is converted in integers: Triton has no such conversion for sm_80, and every device must give the same bits.

Legend: S tensors, N tokens, C channels, K blocks.
"""

# ruff: noqa: ANN001, ANN202 (the arguments of a Triton function have no Python types)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codecs import block as codec
from .message import Message
from .values import (
    BODY,
    ELEMENT,
    LAUNCH,
    OUT,
    SMALLEST_SCALE,
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


@triton.jit(do_not_specialize=["values"])
def _encode(
    table,
    losses,
    channels,
    values,
    element: tl.constexpr,
    aligned: tl.constexpr,
    EVEN: tl.constexpr,
    LARGEST: tl.constexpr,
    FLOAT8: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Writes scales, q and new base of BLOCKS blocks; losses (S, programs, 2) gets sums of x^2 and (x - x_hat)^2."""
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
    tl.store(scales + block, bf16_bits(scale), mask=block < blocks)
    tl.store(codes + place, q, mask=inside)
    stored = reconstruct(_to_values(q, FLOAT8) * scale[:, None], forecast, predicted_by[2], element)
    store(pointer(table, tensor, STATE, element, aligned), place, stored, inside)
    difference = tl.where(inside, x - widened(stored), 0.0)
    program = losses + (tensor * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(program, tl.sum(tl.sum(x * x, axis=1), axis=0))
    tl.store(program + 1, tl.sum(tl.sum(difference * difference, axis=1), axis=0))


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
    """Writes x_hat of BLOCKS blocks to STATE and to OUT, to each if it exists."""
    tensor = tl.program_id(1)
    out, stride = rows_of(table, tensor, OUT, element, aligned)
    block, place, offset, inside = _places(channels, values, stride, EVEN, BLOCKS)
    blocks, scales, codes = _parts(table, tensor, values, EVEN)
    predicted_by = predictor(table, tensor, element, aligned)
    scale = bf16_value(tl.load(scales + block, mask=block < blocks, other=0))
    q = tl.load(codes + place, mask=inside, other=0)
    forecast = expected(predicted_by, place, inside)
    stored = reconstruct(_to_values(q, FLOAT8) * scale[:, None], forecast, predicted_by[2], element)
    store(pointer(table, tensor, STATE, element, aligned), place, stored, inside)
    store(out, offset, stored, inside)


def encode(message: Message, largest: int, float8: bool) -> Tensor:
    """Encodes `message`. Returns (S, 2): ||x||^2 and ||x - x_hat||^2. `largest` is the largest magnitude of q, which is
    float8_e4m3fn if `float8`, else int8."""
    values, grid, even = _geometry(message)
    losses = torch.empty(message.tensors, grid[0], 2, device=message.device)
    _encode[grid](
        message.table, losses, message.channels, values, ELEMENT[message.dtype], message.aligned, even, largest,
        float8, BLOCKS, num_warps=4, **LAUNCH,
    )  # fmt: skip
    return losses.sum(1)


def decode(message: Message, float8: bool) -> None:
    """Decodes `message`: writes x_hat to its STATE and OUT tensors."""
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
