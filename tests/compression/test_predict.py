"""The predictor against least squares in double precision."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.compression import row_blocks
from compact_parallel.runtime.compression.predict import fit, predict


def path(dtype, slope):
    """x and its two bases: x = base + slope (base - previous) + noise."""
    generator = torch.Generator().manual_seed(0)
    previous, trend, noise = (torch.randn(70, 30, generator=generator) for _ in range(3))
    base = (previous + trend).to(dtype)
    previous = previous.to(dtype)
    return base.float() + slope * (base.float() - previous.float()) + 0.1 * noise, (base, previous)


@pytest.mark.parametrize("values", [400, 1 << 18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slope", [0.7, -0.3, 4.0])
def test_k_has_the_least_error_and_the_squares_are_right(monkeypatch, values, dtype, slope):
    monkeypatch.setattr(row_blocks, "VALUES", values)
    x, bases = path(dtype, slope)
    k, norm, missing = fit(x, bases)
    base, previous = (b.double() for b in bases)
    trend = base - previous
    best = float(((x.double() - base) * trend).sum() / trend.square().sum())
    assert k == pytest.approx(min(best, 1.0), abs=1e-5)
    assert norm == pytest.approx(float(x.double().square().sum()), rel=1e-5)
    left = x.double() - predict(bases, k).double()
    assert missing == pytest.approx(float(left.square().sum()), rel=1e-4)
    worse = x.double() - predict(bases, k - 0.2).double()
    assert missing < float(worse.square().sum())


def test_one_base_is_expected_as_it_is_and_none_leaves_all():
    x, bases = path(torch.float32, 0.5)
    k, norm, missing = fit(x, bases[:1])
    assert k == 0.0
    assert torch.equal(predict(bases[:1], k), bases[0])
    assert missing == pytest.approx(float((x - bases[0]).square().sum()), rel=1e-5)
    assert fit(x, ()) == pytest.approx((0.0, norm, norm))
