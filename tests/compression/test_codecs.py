"""Codecs: bytes, errors against theory, and values that break careless arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from compact_parallel.runtime.compression import bitpack
from compact_parallel.runtime.compression.chunks import VALUES, row_chunks
from compact_parallel.runtime.compression.codecs import BY_IDENT, BY_NAME, lloyd_max
from compact_parallel.runtime.config import CODECS
from hypothesis import given, settings
from hypothesis import strategies as st

THEORY = {"1bit": 0.3634, "2bit": 0.1175, "4bit": 0.0095}
"""Squared error of the best levels for a Gaussian, relative to its variance (Max 1960, table I)."""


def round_trip(codec, d):
    return codec.decode(codec.encode(d), *d.shape, torch.float32)


def squared_error(codec, d):
    lost = d.double() - round_trip(codec, d).double()
    return float(lost.square().sum() / d.double().square().sum())


def gauss(n=512, c=768, seed=0):
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def laplace(n=512, c=768, seed=0):
    uniform = torch.rand(n, c, generator=torch.Generator().manual_seed(seed)) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


def test_registry_has_every_codec_that_can_be_chosen():
    assert set(BY_NAME) == set(CODECS)
    assert len(BY_IDENT) == len(BY_NAME)
    assert all(1 <= ident <= 255 for ident in BY_IDENT)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(CODECS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    n=st.integers(1, 70),
    c=st.integers(1, 140),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_dtype(name, dtype, n, c, seed):
    codec, d = BY_NAME[name], gauss(n, c, seed).to(dtype)
    payload = codec.encode(d)
    assert payload.dtype == torch.uint8
    assert payload.shape == (codec.nbytes(n, c),)
    assert codec.bits(n, c) == 8 * len(payload) / (n * c)
    d_hat = codec.decode(payload, n, c, dtype)
    assert d_hat.shape == d.shape
    assert d_hat.dtype == dtype
    assert torch.equal(d_hat, codec.decode(payload.clone(), n, c, dtype))
    assert d_hat.isfinite().all()


def test_rows_are_encoded_alike_whatever_the_chunks(monkeypatch):
    d = gauss(133, 37)
    whole = {name: codec.encode(d) for name, codec in BY_NAME.items()}
    monkeypatch.setattr("compact_parallel.runtime.compression.chunks.VALUES", 400)
    for name, codec in BY_NAME.items():
        assert torch.equal(codec.decode(whole[name], 133, 37, torch.float32), round_trip(codec, d)), name


def test_decode_is_bitwise_the_same_on_any_number_of_threads():
    d = gauss(300, 1000) * gauss(1, 1000, seed=1).exp()
    threads = torch.get_num_threads()
    try:
        for codec in BY_NAME.values():
            payload = codec.encode(d)
            results = []
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(codec.decode(payload, 300, 1000, torch.float32))
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", THEORY)
def test_error_is_that_of_theory(name):
    assert squared_error(BY_NAME[name], gauss()) == pytest.approx(THEORY[name], rel=0.02)


def test_error_is_not_that_of_theory_with_other_levels(monkeypatch):
    """The negative control: the levels of CompactFusion's paper, even with the best thresholds for them."""
    monkeypatch.setitem(lloyd_max.GAUSS, 2, (0.5, 2.0))
    assert squared_error(lloyd_max.LloydMax(2, ident=200), gauss()) > 1.03 * THEORY["2bit"]


def test_error_is_not_that_of_theory_with_other_thresholds():
    codec = lloyd_max.LloydMax(2, ident=200)
    codec._grids[0]._cells_per_unit *= 1.5
    assert squared_error(codec, gauss()) > 1.15 * THEORY["2bit"]


def test_heavy_tails_get_their_own_levels():
    """Laplace data: 0.1762 and 0.0154 are the errors of its own best levels; Gaussian levels give 0.204 and 0.038."""
    assert squared_error(BY_NAME["2bit"], laplace()) == pytest.approx(0.1762, rel=0.03)
    assert squared_error(BY_NAME["4bit"], laplace()) == pytest.approx(0.0154, rel=0.05)
    assert BY_NAME["2bit"].encode(laplace())[0] == 1
    assert BY_NAME["2bit"].encode(gauss())[0] == 0


def test_levels_are_the_means_of_their_cells():
    """Lloyd's condition, by integration over the density; a density that is not theirs fails it."""

    def worst(levels, density, top):
        x = torch.linspace(0, top, 400_001, dtype=torch.float64)
        p, levels = density(x), torch.tensor(levels, dtype=torch.float64)
        cell = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
        mass = torch.zeros_like(levels).index_add_(0, cell, p)
        mean = torch.zeros_like(levels).index_add_(0, cell, p * x) / mass
        return float((mean / levels - 1).abs().max())

    densities = (lambda x: torch.exp(-(x**2) / math.pi), lambda x: torch.exp(-x))
    for bits in (1, 2, 4):
        assert worst(lloyd_max.GAUSS[bits], densities[0], 20) < 1e-3
        assert worst(lloyd_max.LAPLACE[bits], densities[1], 60) < 1e-3
    assert worst(lloyd_max.GAUSS[2], densities[1], 60) > 1e-2


@pytest.mark.parametrize("data", [gauss, laplace])
def test_more_bits_less_error(data):
    token, channel = gauss(512, 1, seed=1).exp(), gauss(1, 768, seed=2).exp()
    for d in (data(), data() * token * channel):
        errors = [squared_error(BY_NAME[name], d) for name in ("1bit", "2bit", "4bit", "int8")]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-3


@pytest.mark.parametrize("name", CODECS)
def test_values_that_break_careless_arithmetic(name):
    codec, d = BY_NAME[name], gauss(40, 50)
    mixed = d.clone()
    mixed[:, 3], mixed[7], mixed[:, 9] = 0.0, 0.0, 5.0
    cases = {
        "zero": torch.zeros(40, 50),
        "constant": torch.full((40, 50), -3.0),
        "zero and constant channels, a zero token": mixed,
        "huge": d * 1e30,
        "denormal": d * 1e-40,
        "huge among tiny": torch.where(d > 2.5, d * 1e30, d * 1e-30),
    }
    for case, values in cases.items():
        d_hat = round_trip(codec, values)
        assert d_hat.isfinite().all(), case
    assert not round_trip(codec, cases["zero"]).any()
    assert torch.allclose(round_trip(codec, cases["constant"]), cases["constant"], rtol=0.9 if name != "int8" else 0.01)
    assert squared_error(codec, d * 2.0**90) == pytest.approx(squared_error(codec, d), rel=1e-3)
    codec.encode(torch.full((40, 50), math.nan))
    codec.encode(torch.full((40, 50), math.inf))


@pytest.mark.parametrize("bits", bitpack.WORD)
def test_packing_gives_every_code_back(bits):
    codes = torch.randint(0, 2**bits, (1001,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = bitpack.pack(codes, bits)
    assert len(packed) == bitpack.packed_bytes(1001, bits)
    table = bitpack.byte_table(torch.arange(2**bits), bits)
    assert torch.equal(table[packed.int()].view(-1)[:1001], codes.long())


def test_bytes_are_as_documented():
    assert bitpack.pack(torch.tensor([1, 2, 3, 0, 3], dtype=torch.uint8), 2).tolist() == [0b00_11_10_01, 0b11]
    one = [0x80, 0x3F]  # 1.0 in bfloat16, little-endian
    assert BY_NAME["1bit"].encode(torch.tensor([[1.0, -1.0, 1.0]])).tolist() == [0, 0, *one, *one, *one, *one, 0b101]
    two_bits = BY_NAME["2bit"].encode(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    assert two_bits.tolist() == [0, 0, *one, *one, *one, *one, 0b01_10_01_10]
    assert BY_NAME["int8"].encode(torch.tensor([[127.0, -3.4, 0.0]])).tolist() == [*one, 127, 253, 0]


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (521, 256), (1088, 3072), (9, 1 << 18), (4000, 1000)])
def test_chunks_cover_all_rows_in_about_equal_steps(rows, columns):
    """A last chunk of a few rows would cost as many calls as a full one."""
    chunks = [range(rows)[chunk] for chunk in row_chunks(rows, columns, torch.device("cpu"))]
    assert [row for chunk in chunks for row in chunk] == list(range(rows))
    assert all(len(chunk) % 8 == 0 for chunk in chunks[:-1])
    assert all(len(chunk) <= max(8, VALUES // columns + 8) for chunk in chunks)
    if chunks:
        assert len(chunks[0]) - len(chunks[-1]) <= 8 * len(chunks)


@pytest.mark.parametrize("bits", bitpack.WORD)
def test_looked_up_values_are_those_of_the_table(bits):
    table = bitpack.byte_table(gauss(1, 2**bits)[0], bits)
    packed = torch.arange(256, dtype=torch.uint8).flip(0)
    assert torch.equal(bitpack.look_up(table, packed), table.flip(0).view(-1))
