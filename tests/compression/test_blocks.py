"""Codecs that work block by block: int8, fp8 and top-k against what their grids allow at best."""

from __future__ import annotations

import math

import pytest
import torch
from compact_parallel.runtime.compression.codecs import BY_NAME
from residuals import gauss, laplace, lost, round_trip, squared_error


def blocks_of(d, size):
    return d.reshape(-1, size)


@pytest.mark.parametrize("data", [gauss, laplace])
def test_int8_error_is_that_of_rounding(data):
    """A twelfth of the step squared, where the step is the largest of 32 magnitudes over 127."""

    def expected(block):
        step = blocks_of(data(), block).abs().amax(1) / 127
        return float(step.square().mean() / 12 / data().square().mean())

    assert squared_error(BY_NAME["int8"], data()) == pytest.approx(expected(32), rel=0.02)
    assert squared_error(BY_NAME["int8"], data()) != pytest.approx(expected(64), rel=0.05)


@pytest.mark.parametrize("data", [gauss, laplace])
def test_fp8_takes_the_nearest_number_there_is(data):
    d = blocks_of(data(), 32)
    scale = (d.abs().amax(1, keepdim=True) / 448).bfloat16().float()

    def expected(dtype):
        grid = torch.arange(256, dtype=torch.uint8).view(dtype).float()
        grid = grid[grid.abs() <= 448].unique()
        z = (d / scale).contiguous()
        above = torch.bucketize(z, grid).clamp(1, len(grid) - 1)
        nearest = torch.stack([grid[above - 1], grid[above]]).sub(z).abs().amin(0)
        return float((nearest * scale).square().mean() / d.square().mean())

    found = squared_error(BY_NAME["fp8"], data())
    assert found == pytest.approx(expected(torch.float8_e4m3fn), rel=1e-3)
    assert found < 0.5 * expected(torch.float8_e5m2)


def test_fp8_keeps_what_is_small_beside_an_outlier():
    """Four bits of precision over five orders of magnitude; int8 loses it."""
    d = gauss(64, 64).clamp(-4, 4)
    d[:, ::32] = 3e3
    small = (d.abs() > 0.5) & (d.abs() < 10)
    assert lost(d[small], round_trip(BY_NAME["fp8"], d)[small]) < 1e-3
    assert lost(d[small], round_trip(BY_NAME["int8"], d)[small]) > 0.5


def test_top_k_keeps_the_largest_of_sixteen():
    d = blocks_of(gauss(512, 768), 16)
    kept = blocks_of(round_trip(BY_NAME["top_k"], d), 16)
    assert torch.equal(kept.count_nonzero(1), torch.ones(len(d), dtype=torch.long))
    place = d.abs().argmax(1, keepdim=True)
    assert torch.equal(kept.gather(1, place), d.gather(1, place).bfloat16().float())


def test_top_k_error_is_that_of_order_statistics():
    """1 - E[m^2] / 16 with m the largest of 16 normal magnitudes, whose distribution function is erf(x / sqrt 2)^16."""

    def expected(block):
        x = torch.linspace(0, 10, 100_001, dtype=torch.float64)
        beyond = 1 - torch.erf(x / math.sqrt(2)) ** block
        return 1 - float(torch.trapezoid(2 * x * beyond, x)) / block

    assert squared_error(BY_NAME["top_k"], gauss()) == pytest.approx(expected(16), rel=0.005)
    assert squared_error(BY_NAME["top_k"], gauss()) != pytest.approx(expected(15), rel=0.005)
