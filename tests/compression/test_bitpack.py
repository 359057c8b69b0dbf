"""Packing small codes: every code comes back, and bytes are as bitpack draws them."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.compression import bitpack
from residuals import gauss, generator


def random_codes(bits, count):
    return torch.randint(0, 2**bits, (count,), dtype=torch.uint8, generator=generator(0))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_packing_gives_every_code_back(bits):
    codes = random_codes(bits, 1000)
    planes = bitpack.pack_planes(codes, bits)
    assert [len(plane) for plane in planes] == [1000 * width // 8 for width in bitpack.PLANES[bits]]
    table = bitpack.value_table(torch.arange(2.0**bits), bits)
    assert torch.equal(bitpack.look_up(table, planes), codes.float())
    planes[0][7] ^= 1
    assert int((bitpack.look_up(table, planes) != codes).sum()) == 1


@pytest.mark.parametrize("bits", bitpack.WORD)
def test_missing_codes_of_the_last_byte_are_zero(bits):
    codes = random_codes(bits, 1001)
    packed = bitpack.pack(codes, bits)
    assert len(packed) == bitpack.packed_bytes(1001, bits) == 1001 * bits // 8 + 1
    back = bitpack.look_up(bitpack.value_table(torch.arange(2.0**bits), bits), [packed])
    assert torch.equal(back[:1001], codes.float())
    assert not back[1001:].any()


def test_bytes_are_as_drawn():
    def packed(codes, bits):
        return [plane.tolist() for plane in bitpack.pack_planes(torch.tensor(codes, dtype=torch.uint8), bits)]

    assert packed([1, 1, 0, 0, 1, 0, 0, 0], 1) == [[0b00010011]]
    assert packed([1, 2, 3, 0, 3, 0, 0, 0], 2) == [[0b00_11_10_01, 0b11]]
    assert packed([1, 2, 7, 4, 3, 0, 0, 6], 3) == [[0b00_11_10_01, 0b10_00_00_11], [0b10001100]]
    assert packed([1, 2, 15, 0, 0, 0, 0, 9], 4) == [[0x21, 0x0F, 0x00, 0x90]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_looked_up_values_are_those_of_the_table(bits):
    values, codes = gauss(1, 2**bits)[0], random_codes(bits, 800)
    looked_up = bitpack.look_up(bitpack.value_table(values, bits), bitpack.pack_planes(codes, bits))
    assert torch.equal(looked_up, values[codes.long()])
    assert not torch.equal(looked_up, values.flip(0)[codes.long()])
