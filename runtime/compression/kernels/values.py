"""Helpers of all kernels: reading and writing values of any float type, rounding, the prediction.

A kernel must give the same bits as PyTorch, on every device and in Triton's interpreter. So each operation is rounded
on its own (kernels are launched with LAUNCH, which forbids fused multiply-add; divisions are IEEE), and bfloat16 is
rounded and read with integer operations: the interpreter's own conversions truncate and lose subnormals.
"""

# ruff: noqa: ANN001, ANN201 (the arguments of a Triton function have no Python types)

from __future__ import annotations

from types import MappingProxyType

import torch
import triton
import triton.language as tl

from .. import header, records
from . import message

LAUNCH = MappingProxyType({"enable_fp_fusion": False})
"""Options of every launch."""
ELEMENT = MappingProxyType({torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.uint16})
"""The Triton type as which kernels read a dtype: bfloat16 as its bits."""

FIELDS = tl.constexpr(message.FIELDS)
X, BASE, PREVIOUS = (tl.constexpr(field) for field in (message.X, message.BASE, message.PREVIOUS))
STATE, BODY, OUT = (tl.constexpr(field) for field in (message.STATE, message.BODY, message.OUT))
STRIDE, HEADER, RECORD = (tl.constexpr(field) for field in (message.STRIDE, message.HEADER, message.RECORD))
HEADER_WORDS = tl.constexpr(header.WORDS)
K, FLAGS, CHECKSUM = (tl.constexpr(word) for word in (header.K, header.FLAGS, header.CHECKSUM))
FINITE = tl.constexpr(header.FINITE)
LOST = tl.constexpr(float(records.LOST))
LOST_COLUMN = tl.constexpr(records.WORDS // 2 - 1)
SMALLEST_SCALE = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def pointer(table, tensor, FIELD: tl.constexpr, element: tl.constexpr, aligned: tl.constexpr):
    """The address in column FIELD of the table as a pointer to `element`."""
    address = tl.load(table + tensor * FIELDS + FIELD).to(tl.pointer_type(element))
    if aligned:
        address = tl.multiple_of(address, 16)
    return address


@triton.jit
def rows_of(table, tensor, FIELD: tl.constexpr, element: tl.constexpr, aligned: tl.constexpr):
    """(pointer, row stride in values) of X or OUT."""
    stride = tl.load(table + tensor * FIELDS + STRIDE)
    if aligned:
        stride = tl.multiple_of(stride, 128 // element.primitive_bitwidth)
    return pointer(table, tensor, FIELD, element, aligned), stride


@triton.jit
def record_of(table, tensor):
    """The words of a tensor's record as int32."""
    return (table + tensor * FIELDS + RECORD).to(tl.pointer_type(tl.int32))


@triton.jit
def header_of(table, tensor):
    """The words of a tensor's header in the message as int32."""
    return pointer(table, tensor, HEADER, tl.int32, False)


@triton.jit
def predictor(table, tensor, element: tl.constexpr, aligned: tl.constexpr):
    """(base, previous base, number of bases that the prediction uses, k): the arguments of `expected`, as the header of
    the message has them."""
    header = header_of(table, tensor)
    k = tl.load(header + K).to(tl.float32, bitcast=True)
    use = tl.load(header + FLAGS) & 0xFF  # of a damaged message it may be more than there are bases
    row = table + tensor * FIELDS
    there = (tl.load(row + BASE) != 0).to(tl.int32) + (tl.load(row + PREVIOUS) != 0).to(tl.int32)
    return predictor_with(table, tensor, tl.minimum(use, there), k, element, aligned)


@triton.jit
def predictor_with(table, tensor, use, k, element: tl.constexpr, aligned: tl.constexpr):
    """The arguments of `expected` for a prediction from `use` bases; with k = 0 the older one is not read."""
    base = pointer(table, tensor, BASE, element, aligned)
    previous = pointer(table, tensor, PREVIOUS, element, aligned)
    return base, previous, tl.where(k == 0, tl.minimum(use, 1), use), k


@triton.jit
def add_to_checksum(word, total):
    """Adds to a checksum what a program has found: an integer sum, so the order of the programs does not matter."""
    tl.atomic_add(word, total.to(tl.int32))


@triton.jit
def in_words(value, offset, BYTES: tl.constexpr, inside):
    """The part that values of 1 or 2 bytes at these offsets have in the sum of the 32-bit words of a body, int64."""
    shifted = value.to(tl.int64) << (8 * BYTES * (offset % (4 // BYTES))).to(tl.int64)
    return tl.sum(tl.where(inside, shifted, 0), axis=0)


@triton.jit
def read(place, inside):
    """The values at `place` in float32, 0 where not `inside`."""
    raw = tl.load(place, mask=inside, other=0)
    if raw.dtype == tl.uint16:
        return (raw.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return raw.to(tl.float32)


@triton.jit
def bf16_bits(value):
    """Finite float32 values rounded to bfloat16 (nearest, ties to even), as uint16."""
    bits = value.to(tl.uint32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)


@triton.jit
def bf16_value(bits):
    """The float32 value of bfloat16 bits."""
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def inverse(scale):
    """1 / scale; 0 where the inverse would not be finite."""
    usable = scale >= SMALLEST_SCALE
    return tl.where(usable, tl.div_rn(1.0, tl.where(usable, scale, 1.0)), 0.0)


@triton.jit
def expected(predicted_by, place, inside):
    """The prediction base + k * (base - previous) at `place`, float32; with one base the base, with none 0. Unused
    bases are not read."""
    base, previous, use, k = predicted_by
    newest = read(base + place, inside & (use > 0))
    oldest = read(previous + place, inside & (use > 1))
    return tl.where(use > 1, (newest - oldest) * k + newest, newest)


@triton.jit
def copy_header(table, tensor, first):
    """The `first` program of a tensor copies its header into the record."""
    word = tl.arange(0, HEADER_WORDS)
    tl.store(record_of(table, tensor) + word, tl.load(header_of(table, tensor) + word), mask=(word >= 0) & first)


@triton.jit
def is_finite(table, tensor):
    """Whether the tensor was finite at its sender."""
    return (tl.load(header_of(table, tensor) + FLAGS) & FINITE) != 0


@triton.jit
def add_lost(table, tensor, square):
    """Adds a program's sum of (x - x_hat)^2 to the record, in units of ||x||^2 / LOST."""
    norm = tl.load(record_of(table, tensor) + HEADER_WORDS + 1).to(tl.float32, bitcast=True)
    part = tl.minimum(tl.div_rn(square, tl.where(norm > 0, norm, 1.0)), 8192.0) * LOST
    tl.atomic_add(table + tensor * FIELDS + RECORD + LOST_COLUMN, part.to(tl.int64))


@triton.jit
def reconstruct(decoded, forecast, use, element: tl.constexpr, finite):
    """x_hat as it is stored: decoded + forecast, clamped to the range of `element`; NaN unless `finite`."""
    if element == tl.float32:
        largest = 3.4028234663852886e38
    elif element == tl.float16:
        largest = 65504.0
    else:
        largest = 3.3895313892515355e38
    total = tl.where(use > 0, decoded + forecast, decoded)
    total = tl.where(finite, tl.minimum(tl.maximum(total, -largest), largest), float("nan"))
    if element == tl.uint16:
        return bf16_bits(total)
    return total.to(element)


@triton.jit
def widened(stored):
    """The result of `reconstruct` as float32."""
    if stored.dtype == tl.uint16:
        return bf16_value(stored)
    return stored.to(tl.float32)


@triton.jit
def store(address, place, stored, inside):
    """Stores values at `place`, unless the address is 0."""
    tl.store(address + place, stored, mask=inside & (address.to(tl.int64) != 0))


@triton.jit
def tile_of(row_N, column_C, tokens, channels, stride):
    """(inside, place, offset) of a tile: the mask of values that exist, and their indices in a contiguous (N, C) tensor
    and in one whose rows are `stride` apart."""
    row_N1 = row_N[:, None]
    inside = (row_N1 < tokens) & (column_C < channels)[None, :]
    return inside, row_N1 * channels + column_C[None, :], row_N1 * stride + column_C[None, :]


def width_of(channels: int, widest: int) -> int:
    """Columns of a tile: the smallest power of two that holds a row, within 8 to `widest`."""
    return min(widest, max(8, triton.next_power_of_2(channels)))
