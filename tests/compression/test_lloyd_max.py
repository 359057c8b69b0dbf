"""Lloyd-Max codecs: errors against theory, levels against Lloyd's condition, token scales against least squares."""

from __future__ import annotations

import math

import pytest
import torch
from compact_parallel.runtime.compression.codecs import BY_NAME, lloyd_max
from residuals import crossing, gauss, laplace, lost, round_trip, squared_error

GAUSS_THEORY = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}
"""Squared error of the best levels for a Gaussian, relative to its variance (Max 1960, table I)."""
LAPLACE_THEORY = {1: 0.5, 2: 0.1762, 3: 0.0545, 4: 0.0154}
"""The same for a Laplace density (Adams and Giesler 1978)."""


def codec(bits):
    return BY_NAME[f"{bits}bit"]


@pytest.mark.parametrize("bits", GAUSS_THEORY)
def test_error_is_that_of_theory(bits):
    assert squared_error(codec(bits), gauss()) == pytest.approx(GAUSS_THEORY[bits], rel=0.015)
    scale = (gauss(512, 1, seed=1) / 2).exp() * (gauss(1, 768, seed=2) / 2).exp()
    d_hat = round_trip(codec(bits), gauss() * scale) / scale
    assert lost(gauss(), d_hat) == pytest.approx(GAUSS_THEORY[bits], rel=0.03)
    assert squared_error(codec(bits), laplace()) == pytest.approx(LAPLACE_THEORY[bits], rel=0.04)


def test_error_is_not_that_of_theory_with_other_levels(monkeypatch):
    """The negative control: the levels of CompactFusion's paper, even with the best thresholds for them."""
    monkeypatch.setitem(lloyd_max.GAUSS, 2, (0.5, 2.0))
    assert squared_error(lloyd_max.LloydMax(2, ident=200), gauss()) > 1.03 * GAUSS_THEORY[2]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_error_is_not_that_of_theory_with_other_thresholds(bits):
    other = lloyd_max.LloydMax(bits, ident=200)
    other._grids[0]._cells_per_unit *= 1.5
    assert squared_error(other, gauss()) > 1.1 * GAUSS_THEORY[bits]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_heavy_tails_get_their_own_levels(bits, monkeypatch):
    assert codec(bits).encode(laplace())[0] == 1
    assert codec(bits).encode(gauss())[0] == 0
    monkeypatch.setattr(lloyd_max, "HEAVY_TAIL", 100)
    assert squared_error(codec(bits), laplace()) > 1.1 * LAPLACE_THEORY[bits]


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
    for bits in (1, 2, 3, 4):
        assert worst(lloyd_max.GAUSS[bits], densities[0], 20) < 5e-4
        assert worst(lloyd_max.LAPLACE[bits], densities[1], 60) < 5e-4
    for bits in (2, 3, 4):
        assert worst(lloyd_max.GAUSS[bits], densities[1], 60) > 1e-2


def token_scales(payload, tokens):
    return payload[2 : 2 + 2 * tokens].view(torch.bfloat16)


def with_plain_scales(bits, d):
    """A payload whose token scales are u as the codes were found with it: what travelled without the refinement."""
    payload = codec(bits).encode(d)
    token_scales(payload, len(d))[:] = lloyd_max._scales(d)[0]
    return payload


def token_errors(bits, payload, d):
    return (codec(bits).decode(payload, *d.shape, torch.float32) - d).double().square().sum(1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_token_scales_have_the_least_squared_error(bits):
    d = laplace(64, 200) * gauss(64, 1, seed=1).exp() * gauss(1, 200, seed=2).exp()

    def improves(payload, factor):
        other = payload.clone()
        token_scales(other, len(d)).mul_(factor)
        return float((token_errors(bits, other, d) < token_errors(bits, payload, d)).float().mean())

    refined, plain = codec(bits).encode(d), with_plain_scales(bits, d)
    assert max(improves(refined, 1.02), improves(refined, 0.98)) == 0
    assert improves(plain, 1.02) + improves(plain, 0.98) > 0.3


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_no_token_is_worse_off_than_with_zeros(bits):
    d = crossing(1024, 1536, 1e3)
    zeros = d.double().square().sum(1)
    assert (token_errors(bits, codec(bits).encode(d), d) <= 1.001 * zeros).all()
    plain = with_plain_scales(bits, d)
    assert lost(d, codec(bits).decode(plain, *d.shape, torch.float32)) > 1.1
    assert (token_errors(bits, plain, d) > 1.1 * zeros).any()


def test_channels_too_faint_to_matter_are_zeros():
    d = gauss(40, 50)
    d[:, 7] *= 1e-25
    d[:, 8] *= 1e-10
    d_hat = codec(4).decode(codec(4).encode(d), *d.shape, torch.float32)
    assert not d_hat[:, 7].any()
    assert lost(d[:, 8], d_hat[:, 8]) < 0.1
