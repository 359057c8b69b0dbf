"""Packs codes of 1 to 4 bits into bytes and unpacks them, with a few word-wide shifts instead of one step per code.

A byte holds 8 / bits codes; the first is in its lowest bits:

    bits 1   | c7 c6 c5 c4 c3 c2 c1 c0 |
    bits 2   |  c3  |  c2  |  c1  |  c0  |
    bits 4   |     c1      |     c0      |

Codes of three bits are split into two planes: the two low bits of every code packed as bits 2, then the high bits
packed as bits 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

WORD = {1: torch.int64, 2: torch.int32, 4: torch.int16}
"""The integer dtype as wide as the unpacked codes (one byte each, little-endian) that go into one packed byte."""
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,)}
"""The bits of each plane, the low bits first."""


def packed_bytes(codes: int, bits: int) -> int:
    """Bytes of `codes` packed codes of 1, 2 or 4 bits."""
    return -(-codes * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8, 1-D, each below 2**bits; 1, 2 or 4 bits) packed into bytes; zeros fill up the last byte."""
    per_byte = 8 // bits
    if len(codes) % per_byte:
        codes = pad(codes, (0, -len(codes) % per_byte))
    word = codes.view(WORD[bits])
    shift = 8 - bits
    while per_byte > 1:
        word = word | (word >> shift)
        shift, per_byte = 2 * shift, per_byte // 2
    return word.to(torch.uint8)


def pack_planes(codes: Tensor, bits: int) -> list[Tensor]:
    """One packed tensor per plane, for codes (uint8, 1-D, a multiple of 8 of them) of 1 to 4 bits."""
    if bits == 3:
        return [pack(codes & 3, 2), pack(codes >> 2, 1)]
    return [pack(codes, bits)]


def value_table(values: Tensor, bits: int) -> Tensor:
    """The table that `look_up` reads: row i holds the values of all codes packed in byte i.

    `values` (2**bits, float32) has the value of each code. For 3 bits, i is the byte with the low parts of four codes
    plus 256 times their four high bits.
    """
    width, *high = PLANES[bits]
    shifts = torch.arange(8 // width)
    rows = torch.arange(4096 if high else 256)[:, None]
    codes = (rows & 255) >> width * shifts & 2**width - 1
    return values[codes | (rows >> 8 + shifts & 1) << width if high else codes]


def look_up(table: Tensor, planes: Sequence[Tensor]) -> Tensor:
    """The values (float32, 1-D) of packed codes, given their planes (uint8, 1-D); `table` is a `value_table`.

    A row of two or four values is copied as one float64 or complex128: that takes a third of the time of copying rows.
    """
    index = planes[0].int()
    if len(planes) == 2:
        high = torch.stack([planes[1] & 15, planes[1] >> 4], 1).view(-1)
        index |= high.int() << 8
    wide = {2: torch.float64, 4: torch.complex128}.get(table.shape[1])
    if wide is None:
        return table.index_select(0, index).view(-1)
    return table.view(wide).view(-1).index_select(0, index).view(torch.float32)
