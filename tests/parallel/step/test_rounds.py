"""Rounds on the exact posterior mean of a Gaussian mixture, with ComfyUI's own samplers."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.parallel.step.samplers import LINE, REPLAY, SERIAL, Kind, kind_of
from stepping import Mixture, sample_mixture

KINDS = {name: kind_of(comfy.samplers.sampler_object(name)) for name in comfy.samplers.SAMPLER_NAMES}
LOOKS_AHEAD = [name for name, kind in KINDS.items() if kind.way != SERIAL]
STEPS = 20

# Relative error at 20 steps and look_ahead 2: the largest of the batch, and for the samplers that add noise its median,
# as a guess may lead one of their samples to another component of the mixture.
BOUND, NOISY_BOUND = 0.02, 0.05


def errors(samples, exact):
    """The relative error of every sample of the batch."""
    return (samples - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)


def error(samples, exact):
    """Largest relative error over the batch."""
    return float(errors(samples, exact).max())


def reuse(**changes):
    """Step Reuse, switched on."""
    return StepReuseConfig(mode="look_ahead", **changes)


def test_every_sampler_of_this_comfyui_is_classified():
    unknown = [name for name, kind in KINDS.items() if "not known to this pack" in kind.reason]
    assert not unknown
    assert all(kind.reason for kind in KINDS.values() if kind.way == SERIAL)


@pytest.mark.parametrize("name", LOOKS_AHEAD)
@pytest.mark.parametrize("flow", [True, False])
def test_with_look_ahead_1_the_result_is_bitwise_the_stock_one(name, flow):
    model = Mixture(flow=flow, seed=1)
    exact, calls = sample_mixture(model, name, 8, 1)
    samples, rounds = sample_mixture(model, name, 8, 1, reuse(look_ahead=1))
    assert torch.equal(samples, exact)
    assert rounds == calls


@pytest.mark.parametrize("name", LOOKS_AHEAD)
@pytest.mark.parametrize("flow", [True, False])
def test_every_sampler_stays_near_its_serial_result_with_fewer_rounds(name, flow):
    model = Mixture(flow=flow, seed=2)
    exact, calls = sample_mixture(model, name, STEPS, 2, batch=8)
    samples, rounds = sample_mixture(model, name, STEPS, 2, reuse(), batch=8)
    assert sum(rounds) == len(calls)
    assert len(rounds) < 0.9 * len(calls)
    if KINDS[name].noisy:
        assert 0 < errors(samples, exact).median() < NOISY_BOUND
    else:
        assert 0 < error(samples, exact) < BOUND


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc", "dpmpp_2m_sde"])
def test_when_nothing_passes_the_check_the_result_is_exact(name):
    model = Mixture(flow=True, seed=3)
    exact, calls = sample_mixture(model, name, STEPS, 3)
    samples, rounds = sample_mixture(model, name, STEPS, 3, reuse(tolerance=1e-12))
    assert torch.equal(samples, exact)
    assert rounds == calls


def test_the_check_keeps_a_long_look_ahead_from_diverging():
    model = Mixture(flow=False, seed=4)
    exact, _ = sample_mixture(model, "euler", STEPS, 4)
    checked, rounds = sample_mixture(model, "euler", STEPS, 4, reuse(look_ahead=8))
    unchecked, fewer_rounds = sample_mixture(model, "euler", STEPS, 4, reuse(look_ahead=8, tolerance=0.0))
    assert len(fewer_rounds) < len(rounds)
    assert error(checked, exact) < 0.05 < error(unchecked, exact)


def test_warm_up_and_tail_are_rounds_of_one():
    _, rounds = sample_mixture(
        Mixture(flow=True, seed=5), "euler", STEPS, 5, reuse(warmup_calls=4, tail_calls=3, tolerance=0.0)
    )
    assert rounds == [1] * 4 + [2] * 6 + [1] + [1] * 3


def test_replay_follows_a_multistep_sampler_better_than_a_line():
    assert KINDS["dpmpp_2m"].way == REPLAY
    model = Mixture(flow=True, seed=6)
    exact, _ = sample_mixture(model, "dpmpp_2m", 50, 6)
    replayed, _ = sample_mixture(model, "dpmpp_2m", 50, 6, reuse())
    straight, _ = sample_mixture(model, "dpmpp_2m", 50, 6, reuse(), kind=Kind(LINE))
    assert error(replayed, exact) < 0.8 * error(straight, exact)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde", "ddpm", "seeds_2"])
def test_replay_does_not_move_the_global_generator(name):
    model = Mixture(flow=False, seed=7)
    sample_mixture(model, name, 8, 7)
    expected = torch.get_rng_state()
    sample_mixture(model, name, 8, 7, reuse())
    assert torch.equal(torch.get_rng_state(), expected)
