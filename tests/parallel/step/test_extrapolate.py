"""Extrapolated predictions, and what is kept of them."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.parallel.step.extrapolate import Extrapolation
from compact_parallel.runtime.parallel.step.parametrization import (
    Call,
    Preconditioned,
    Process,
    Slopes,
    decode,
    encode,
    moved,
)

FLOW, EPS = Process(flow=True), Process(flow=False)
SPACES = [Slopes(FLOW), Slopes(EPS), Preconditioned(FLOW), Preconditioned(EPS)]
LEVELS = [1.0, 0.9, 0.78, 0.7, 0.61, 0.5]


def call(level, batch=2):
    """A call at a noise level, at latent zero: there D is b times what is kept of it."""
    return Call(torch.zeros(batch, 3), torch.full((batch,), float(level)), float(level))


def known(predictor, values, space=None, reach=2):
    """An extrapolation that has seen `values` kept at LEVELS, and a function that tells what it expects is kept."""
    space = space or Slopes(FLOW)
    extrapolation = Extrapolation(predictor, space, reach=reach)
    for level, value in zip(LEVELS, values):
        extrapolation.commit(call(level), decode(space, call(level), torch.full((2, 3), float(value))))

    def expected(level, place):
        return encode(space, call(level), extrapolation.expected(call(level), place))[0, 0].item()

    return extrapolation, expected


def test_hold_repeats_the_last():
    _, expected = known("hold", [1, 2, 5])
    assert expected(0.5, 1) == pytest.approx(5)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("predictor", ["linear", "auto"])
def test_a_straight_line_is_continued(predictor, space):
    def line(level):
        return 3 - 2 * space.coordinate(level)

    _, expected = known(predictor, [line(level) for level in LEVELS[:4]], space)
    for place in (0, 1):
        level = LEVELS[4 + place]
        assert expected(level, place) == pytest.approx(line(level), rel=1e-4)
    _, held = known("hold", [line(level) for level in LEVELS[:4]], space)
    assert held(LEVELS[4], 0) != pytest.approx(line(LEVELS[4]), rel=1e-2)


def test_auto_holds_what_goes_up_and_down():
    _, expected = known("auto", [1, -1, 1, -1])
    assert expected(0.61, 0) == pytest.approx(-1)


def test_auto_fits_each_batch_entry_by_itself():
    space = Slopes(FLOW)
    extrapolation = Extrapolation("auto", space, reach=1)
    for place, level in enumerate(LEVELS[:4]):
        kept = torch.tensor([[2 * level], [(-1.0) ** place]]).expand(2, 3)
        extrapolation.commit(call(level), decode(space, call(level), kept))
    smooth, rough = encode(space, call(LEVELS[4]), extrapolation.expected(call(LEVELS[4]), 0))[:, 0].tolist()
    assert smooth == pytest.approx(2 * LEVELS[4])
    assert rough == pytest.approx(-1)


def test_a_second_call_at_a_level_replaces_the_first():
    extrapolation, expected = known("linear", [1, 2])
    extrapolation.commit(call(LEVELS[1]), decode(Slopes(FLOW), call(LEVELS[1]), torch.full((2, 3), 3.0)))
    assert expected(LEVELS[1] - 0.1, 0) == pytest.approx(5.0)


def test_nor_does_one_at_a_level_that_differs_by_rounding_make_a_line():
    extrapolation, expected = known("linear", [1, 2])
    almost = call(LEVELS[1] * (1 - 1e-6))
    extrapolation.commit(almost, decode(Slopes(FLOW), almost, torch.full((2, 3), 3.0)))
    assert expected(LEVELS[1] - 0.1, 0) == pytest.approx(5.0, rel=1e-3)


def test_with_one_call_known_every_predictor_holds():
    for predictor in ("hold", "linear", "auto"):
        _, expected = known(predictor, [4])
        assert expected(0.9, 0) == pytest.approx(4)


@pytest.mark.parametrize("space", SPACES)
def test_what_is_kept_gives_the_prediction_back(space):
    x, denoised = torch.randn(2, 3), torch.randn(2, 3)
    here = Call(x, torch.full((2,), 0.3), 0.3)
    torch.testing.assert_close(decode(space, here, encode(space, here, denoised)), denoised)
    assert torch.equal(moved(space, denoised, here, here), denoised)
    there = Call(x + 1, here.sigma, here.level)
    torch.testing.assert_close(moved(space, denoised, here, there), denoised + space.follows(0.3))
