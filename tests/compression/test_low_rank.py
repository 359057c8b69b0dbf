"""Low-rank codecs: as near as the best matrix of that rank, found again from the last payload, decoded exactly."""

from __future__ import annotations

import math

import pytest
import torch
from compact_parallel.runtime.compression.codecs import BY_NAME, low_rank
from residuals import gauss, lost, round_trip
from residuals import low_rank as structured

NAMES = ("low_rank", "low_rank_4bit")


def error(codec, d, previous=None):
    """||d - d_hat|| / ||d|| and the payload."""
    payload = codec.encode(d, previous)
    return math.sqrt(lost(d, codec.decode(payload, *d.shape, torch.float32))), payload


def best_error(d, rank):
    """Of any matrix of that rank (Eckart and Young 1936)."""
    sigma = torch.linalg.svdvals(d.double())
    return math.sqrt(sigma[rank:].square().sum() / sigma.square().sum())


def yardstick(d, rank):
    """Of torch's own search, with as many columns more as ours."""
    u, sigma, v = torch.svd_lowrank(d, q=rank + low_rank.EXTRA, niter=1)
    return math.sqrt(lost(d, (u[:, :rank] * sigma[:rank]) @ v[:, :rank].T))


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rank", [8, 16, 32])
def test_error_is_near_that_of_the_best_matrix(decay, rank, monkeypatch):
    d = structured(decay=decay)
    found, best = error(BY_NAME["low_rank"].configured(rank), d)[0], best_error(d, rank)
    assert best <= found <= 1.06 * best
    assert found <= 1.01 * yardstick(d, rank)
    monkeypatch.setattr(low_rank, "ROUNDS", 1)
    assert error(BY_NAME["low_rank"].configured(rank), d)[0] > 1.06 * best


@pytest.mark.parametrize("rank", [8, 16])
def test_four_bits_cost_little(rank, monkeypatch):
    """Without the balance and the mixing the few large directions are rounded as coarsely as the many small ones."""
    codec, d = BY_NAME["low_rank_4bit"].configured(rank), structured(decay=2.0)
    allowed = 1.25 * best_error(d, rank)
    assert error(codec, d)[0] < allowed
    plain = lambda u_NW, rank: low_rank._orthonormal(u_NW)[:, :rank]  # noqa: E731
    monkeypatch.setattr(low_rank, "_balanced", plain)
    assert error(codec, d)[0] > allowed


@pytest.mark.parametrize("name", NAMES)
def test_a_warm_start_needs_one_round_where_two_are_needed_from_the_cold(name, monkeypatch):
    """Other tokens, the same channel directions: the last payload knows where to look."""
    codec, before, d = BY_NAME[name], structured(decay=0.7), structured(decay=0.7, tokens=1)
    payload = codec.encode(before)
    cold = error(codec, d)[0]
    assert error(codec, d, payload)[0] <= cold
    monkeypatch.setattr(low_rank, "ROUNDS", 1)
    assert error(codec, d, payload)[0] <= 1.01 * cold
    assert error(codec, d)[0] > 1.1 * cold


@pytest.mark.parametrize("name", NAMES)
def test_a_warm_start_from_little_does_not_stay_there(name):
    """The last residual was zero, or had one direction only."""
    codec, d = BY_NAME[name], structured()
    cold = error(codec, d)[0]
    for before in (torch.zeros_like(d), gauss(len(d), 1) * gauss(1, d.shape[1])):
        found, payload = error(codec, d, codec.encode(before))
        assert found <= 1.05 * cold
        assert error(codec, d, payload)[0] <= cold


@pytest.mark.parametrize("name", NAMES)
def test_rank(name):
    codec, d = BY_NAME[name], structured(decay=0.5)
    errors = [error(codec.configured(rank), d)[0] for rank in (1, 4, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    bits = 8 if name == "low_rank" else 4
    assert codec.configured(7).nbytes(10, 20) == 2 * 30 + 30 * 7 * bits // 8
    assert codec.configured(700).nbytes(10, 20) == 2 * 30 + 30 * 10 * bits // 8
    assert codec.configured(16).nbytes(100, 200) == codec.nbytes(100, 200)
    assert codec.encode(d).shape == (codec.nbytes(*d.shape),)
    with pytest.raises(ValueError, match="rank is 0"):
        codec.configured(0)


def test_other_codecs_have_no_rank():
    assert all(codec.configured(3) is codec for name, codec in BY_NAME.items() if name not in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_residuals_of_that_rank_are_nearly_exact(name):
    d = gauss(300, 5) @ gauss(5, 400, seed=1)
    limit = 1e-2 if name == "low_rank" else 0.12
    assert error(BY_NAME[name], d)[0] < limit
    assert error(BY_NAME[name], d + gauss(300, 400, seed=2))[0] > limit


def test_sums_are_exact_whatever_their_order():
    """At the largest rank with the largest integers; twice that rank, or fractions, are not."""

    def exact(a, b):
        order = torch.randperm(a.shape[1], generator=torch.Generator().manual_seed(0))
        sums = [a @ b.T, a[:, order] @ b[:, order].T, a.flip(1) @ b.flip(1).T]
        return all(torch.equal(s.double(), a.double() @ b.double().T) for s in sums)

    signs = gauss(20, low_rank.LARGEST_RANK).sign()
    assert exact(127 * signs, 127 * signs)
    assert not exact(127 * signs.abs().repeat(1, 2).add(0.125), 127 * signs.abs().repeat(1, 2))
    assert not exact(127 * signs + 0.3, 127 * signs)


@pytest.mark.parametrize("name", NAMES)
def test_channel_scales_have_the_least_squared_error(name):
    """Then twice the decoded channel is as far from the residual as zeros are, and the channel itself is nearer."""
    d = gauss(60, 90) * (gauss(1, 90, seed=1) * 5).exp()
    d_hat = round_trip(BY_NAME[name].configured(4), d).double()

    def distance(factor):
        return (factor * d_hat - d.double()).norm(dim=0) / d.double().norm(dim=0)

    assert (distance(1.0) < 1).all()
    assert (distance(1.98) < 1).all()
    assert (distance(2.02) > 1).all()
