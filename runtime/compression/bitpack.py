"""Small codes to bytes and back, with a few word-wide shifts instead of one step per code.

A byte holds 8 / bits codes; the first is in its lowest bits:

    bits 1   | c7 c6 c5 c4 c3 c2 c1 c0 |
    bits 2   |  c3  |  c2  |  c1  |  c0  |
    bits 4   |     c1      |     c0      |
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

WORD = {1: torch.int64, 2: torch.int32, 4: torch.int16}
"""The integer that is as wide as the codes of one byte while each still has a byte of its own (little-endian)."""


def packed_bytes(codes: int, bits: int) -> int:
    """Bytes that `codes` codes of `bits` bits take."""
    return -(-codes * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8, 1-D, each below 2**bits) packed into bytes; missing codes of the last byte are 0."""
    per_byte = 8 // bits
    if len(codes) % per_byte:
        codes = pad(codes, (0, -len(codes) % per_byte))
    word = codes.view(WORD[bits])
    shift = 8 - bits
    while per_byte > 1:
        word = word | (word >> shift)
        shift, per_byte = 2 * shift, per_byte // 2
    return word.to(torch.uint8)


def byte_table(values: Tensor, bits: int) -> Tensor:
    """Row b holds the values of the codes in byte b: (256, 8 / bits) for `values` (2**bits)."""
    shifts = torch.arange(0, 8, bits)
    return values[(torch.arange(256)[:, None] >> shifts) & (2**bits - 1)]


def look_up(table: Tensor, packed: Tensor) -> Tensor:
    """The values (float32, 1-D) of the codes in `packed` (uint8); `table` is a `byte_table`.

    A row of two or four values is copied as one wide number: that takes a third of the time of copying rows.
    """
    wide = {2: torch.float64, 4: torch.complex128}.get(table.shape[1])
    if wide is None:
        return table.index_select(0, packed.int()).view(-1)
    return table.view(wide).view(-1).index_select(0, packed.int()).view(torch.float32)
