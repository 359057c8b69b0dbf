"""What every codec keeps its word about, on whatever residual: hypothesis draws shapes, types and values."""

from __future__ import annotations

import math

import pytest
import torch
from compact_parallel.runtime.compression.codecs import BY_IDENT, BY_NAME, OFFERED
from hypothesis import given, settings
from hypothesis import strategies as st
from residuals import crossing, gauss, laplace, lost, low_rank, round_trip

NAMES = (*OFFERED, "skip")
SLACK = 1 + 2**-7
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def small_and_huge(n, c, seed):
    d = gauss(n, c, seed)
    return torch.where(d > 1, d * 1e30, d * 1e-30)


def sparse(n, c, seed):
    d = gauss(n, c, seed)
    return torch.where(d > 1.5, d, 0)


def biased_channel(n, c, seed):
    d = gauss(n, c, seed)
    d[:, seed % c] += 300
    return d


def dead_token_and_channels(n, c, seed):
    d = gauss(n, c, seed)
    d[:, seed % c], d[seed % n], d[:, (seed + 1) % c] = 0, 0, 5
    return d


RESIDUALS = {
    "gauss": gauss,
    "laplace": laplace,
    "zero": lambda n, c, seed: torch.zeros(n, c),
    "constant": lambda n, c, seed: torch.full((n, c), -3.0 - seed),
    "huge": lambda n, c, seed: gauss(n, c, seed).clamp(-4, 4) * 2.5e33,
    "denormal": lambda n, c, seed: gauss(n, c, seed) * 10.0 ** -(37 + seed % 8),
    "around the smallest scale": lambda n, c, seed: gauss(n, c, seed) * 2.0 ** -(118 + seed % 12),
    "small and huge": small_and_huge,
    "all sizes": lambda n, c, seed: gauss(n, c, seed) * 10.0 ** (20 * gauss(n, c, seed + 1)).clamp(-44, 33),
    "sparse": sparse,
    "a channel with a bias": biased_channel,
    "dead token and channels": dead_token_and_channels,
    "an outlier token crosses an outlier channel": lambda n, c, seed: crossing(n, c, 10.0 ** (seed % 9)),
    "token and channel scales": lambda n, c, seed: gauss(n, c, seed) * gauss(n, 1).exp() * gauss(1, c).exp(),
    "low rank": lambda n, c, seed: low_rank(n, c, decay=seed % 4),
    "rank one": lambda n, c, seed: gauss(n, 1, seed) * gauss(1, c, seed + 1),
}

codecs = st.builds(lambda name, rank: BY_NAME[name].configured(rank), st.sampled_from(NAMES), st.integers(1, 40))
sizes = st.integers(1, 90) | st.sampled_from([1, 7, 8, 16, 31, 33, 64])


@st.composite
def residuals(draw):
    """A residual (N, C), finite and at most 1e34 in magnitude, of any dtype."""
    n, c, seed = draw(sizes), draw(sizes), draw(st.integers(0, 1000))
    d, dtype = RESIDUALS[draw(st.sampled_from(list(RESIDUALS)))](n, c, seed), draw(st.sampled_from(DTYPES))
    d *= draw(st.sampled_from([1.0, 1e-42, 1e-38, 1e-30, 1e-18, 1e18]))
    largest = min(1e34, torch.finfo(dtype).max)
    return d.clamp(-largest, largest).to(dtype)


def some(max_examples):
    return settings(max_examples=max_examples, deadline=None, derandomize=True)


def test_registry():
    assert set(NAMES) <= set(BY_NAME)
    assert len(BY_IDENT) == len(BY_NAME)
    expected = (1, 6, 4, 5, 3, 2, 7, 8, 9, 10)  # as they are on the wire, for good
    assert tuple(BY_NAME[name].ident for name in NAMES) == expected
    assert all(BY_IDENT[codec.ident] is codec for codec in BY_NAME.values())
    assert [name for name in NAMES if BY_NAME[name].warm_starts] == ["low_rank", "low_rank_4bit"]


@some(400)
@given(codec=codecs, d=residuals(), dtype=st.sampled_from(DTYPES))
def test_payload_and_result_are_as_announced(codec, d, dtype):
    payload = codec.encode(d)
    assert payload.dtype == torch.uint8
    assert payload.shape == (codec.nbytes(*d.shape),)
    assert codec.bits(*d.shape) == 8 * len(payload) / d.numel()
    d_hat = codec.decode(payload, *d.shape, dtype)
    assert d_hat.shape == d.shape
    assert d_hat.dtype == dtype
    assert torch.equal(d_hat, codec.decode(payload, *d.shape, torch.float32).to(dtype))


@some(1500)
@given(codec=codecs, d=residuals())
def test_no_residual_gets_larger(codec, d):
    d_hat = round_trip(codec, d)
    assert d_hat.isfinite().all()
    assert lost(d, d_hat) <= SLACK**2 * bool(d.any())


@pytest.mark.parametrize("name", NAMES)
def test_no_residual_gets_larger_beyond_a_block(name, monkeypatch):
    monkeypatch.setattr("compact_parallel.runtime.compression.row_blocks.VALUES", 1 << 12)
    for make in RESIDUALS.values():
        d = make(203, 517, 3).clamp(-1e34, 1e34)
        d_hat = round_trip(BY_NAME[name], d)
        assert d_hat.isfinite().all()
        assert lost(d, d_hat) <= SLACK**2 * bool(d.any())


def test_some_residuals_get_larger_with_plain_scales():
    """The negative control: the reference's 2 bits, whose scales are means and nothing else."""
    d = crossing(512, 768, 1e4)
    assert lost(d, round_trip(BY_NAME["2bit_reference"], d)) > 5 * SLACK**2


@some(200)
@given(name=st.sampled_from(NAMES), rank=st.integers(1, 40), d=residuals())
def test_only_the_bytes_are_decoded(name, rank, d):
    """Another codec object, and what was encoded meanwhile, change nothing."""
    codec, other = (BY_NAME[name].configured(rank) for _ in range(2))
    payload = codec.encode(d)
    d_hat = codec.decode(payload, *d.shape, torch.float32)
    other.encode(gauss(*d.shape, seed=77))
    carried = torch.tensor(payload.tolist(), dtype=torch.uint8)
    assert torch.equal(d_hat, other.decode(carried, *d.shape, torch.float32))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "skip"])
def test_every_byte_counts(name):
    """The negative control of the test above: whichever byte after the first two changes, so does the result."""
    codec, d = BY_NAME[name].configured(3), gauss(9, 16)
    payload = codec.encode(d)
    d_hat = codec.decode(payload, *d.shape, torch.float32)
    for place in range(2, len(payload)):
        other = payload.clone()
        other[place] ^= 0x01
        assert not torch.equal(codec.decode(other, *d.shape, torch.float32), d_hat), place


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_decoded_alike_whatever_the_chunks(name, monkeypatch):
    codec, d = BY_NAME[name], gauss(133, 37)
    payload = codec.encode(d)
    whole = codec.decode(payload, *d.shape, torch.float32)
    monkeypatch.setattr("compact_parallel.runtime.compression.row_blocks.VALUES", 400)
    assert torch.equal(whole, codec.decode(payload, *d.shape, torch.float32))


@pytest.fixture
def threads():
    """Sets the number of threads; as before afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_decode_is_bitwise_the_same_on_any_number_of_threads(name, threads):
    codec, d = BY_NAME[name].configured(48), gauss(700, 1003) * gauss(1, 1003, seed=1).exp()
    payload = codec.encode(d)
    results, sums = [], set()
    for count in (1, 2, 3):
        threads(count)
        results.append(codec.decode(payload, *d.shape, torch.float32))
        sums.add(float(d.sum()))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert len(sums) > 1  # the negative control: a sum of fractions is not the same


@pytest.mark.parametrize("name", NAMES)
def test_equal_residuals_of_any_size_are_treated_alike(name):
    codec, d = BY_NAME[name], gauss(40, 50)
    error = lost(d, round_trip(codec, d))
    assert lost(d * 2.0**90, round_trip(codec, d * 2.0**90)) == pytest.approx(error, rel=1e-3)
    assert lost(d * 2.0**-70, round_trip(codec, d * 2.0**-70)) == pytest.approx(error, rel=1e-3)
    assert name == "skip" or lost(laplace(40, 50), round_trip(codec, laplace(40, 50))) != pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_does_not_raise(name, value, dtype):
    codec = BY_NAME[name]
    for d in (torch.full((40, 50), value), gauss(40, 50).index_fill(1, torch.tensor([3]), value), gauss(1, 1) * value):
        payload = codec.encode(d.to(dtype))
        assert len(payload) == codec.nbytes(*d.shape)
        codec.decode(payload, *d.shape, dtype)
        after = codec.encode(gauss(*d.shape), payload)
        assert codec.decode(after, *d.shape, dtype).isfinite().all()


@pytest.mark.parametrize("data", [gauss, laplace])
def test_more_bits_less_error(data):
    token, channel = gauss(512, 1, seed=1).exp(), gauss(1, 768, seed=2).exp()
    names = ("skip", "1bit", "2bit", "3bit", "4bit", "int8")
    for d in (data(), data() * token * channel):
        errors = [lost(d, round_trip(BY_NAME[name], d)) for name in names]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] == 1
        assert errors[-1] < 1e-3
