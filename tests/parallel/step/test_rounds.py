"""Rounds on the exact posterior mean of a Gaussian mixture, with ComfyUI's own samplers."""

from __future__ import annotations

import comfy.k_diffusion.sampling
import comfy.samplers
import pytest
import torch
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.parallel.step.parametrization import Process, Slopes
from compact_parallel.runtime.parallel.step.replay import Replay
from compact_parallel.runtime.parallel.step.rounds import Rounds
from compact_parallel.runtime.parallel.step.samplers import LINE, REPLAY, SERIAL, Kind, kind_of
from stepping import Mixture, OneDevice, sample_mixture

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
    tolerance = 0.1 if KINDS[name].noisy else 0.05
    samples, rounds = sample_mixture(model, name, STEPS, 2, reuse(tolerance=tolerance), batch=8)
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


@pytest.mark.parametrize("name", ["exp_heun_2_x0", "heun", "dpm_2"])
@pytest.mark.parametrize("flow", [True, False])
def test_samplers_that_come_back_to_a_level_do_not_diverge_without_the_check(name, flow):
    model = Mixture(flow=flow, seed=8)
    exact, _ = sample_mixture(model, name, STEPS, 8)
    samples, _ = sample_mixture(model, name, STEPS, 8, reuse(tolerance=0.0))
    assert error(samples, exact) < BOUND


class NotFiniteOnce(Mixture):
    """Says NaN at one look-ahead call."""

    def __call__(self, x, sigma, **extra):
        said = super().__call__(x, sigma, **extra)
        return said * float("nan") if self.calls == 7 else said


def test_a_guess_that_is_not_finite_is_evaluated_again():
    exact, calls = sample_mixture(Mixture(flow=True, seed=9), "euler", 24, 9)
    samples, rounds = sample_mixture(NotFiniteOnce(flow=True, seed=9), "euler", 24, 9, reuse(look_ahead=4))
    assert error(samples, exact) < BOUND
    assert sum(rounds) == len(calls)
    assert len(rounds) < 0.6 * len(calls)


class RoughForOne(Mixture):
    """The first entry of a batch is of another, rougher kind than the rest."""

    def __call__(self, x, sigma, **extra):
        said = super().__call__(x, sigma, **extra)
        said[0] += 0.2 * (x[0] * 40).sin()
        return said


def test_one_entry_of_a_batch_cannot_hide_behind_the_others():
    model = RoughForOne(flow=True, seed=10)
    _, alone = sample_mixture(model, "euler", STEPS, 10, reuse(look_ahead=4), batch=1)
    _, among_others = sample_mixture(model, "euler", STEPS, 10, reuse(look_ahead=4), batch=16)
    _, smooth = sample_mixture(Mixture(flow=True, seed=10), "euler", STEPS, 10, reuse(look_ahead=4), batch=16)
    assert len(smooth) < len(alone)
    assert len(among_others) >= len(alone)


def other_each_time(model, x, sigmas, extra_args=None, callback=None, disable=None, state=None):
    """Euler from a start that moves on with every run."""
    state.append(1)
    x = x * (1 + 0.1 * len(state))
    return comfy.k_diffusion.sampling.sample_euler(model, x, sigmas, extra_args=extra_args, disable=True)


def test_a_sampler_that_is_not_the_same_function_again_runs_serially_with_a_warning():
    model = Mixture(flow=True, seed=11)
    x, sigmas = model.noise(11, STEPS), model.sigmas(STEPS)
    replay = Replay(other_each_time, model, x, sigmas, {}, {"state": []})
    device = OneDevice(model, 2)
    rounds = Rounds(reuse(tolerance=0.0), Kind(REPLAY), device, replay, Slopes(Process(flow=True)))
    replay.run(rounds.model(model), None, True)
    assert rounds.accepted[4:] == [1] * (STEPS - 5)
    assert "Step Reuse stopped" in device.warnings[0]


def test_remembered_noise_is_the_noise_and_is_asked_for_once(monkeypatch):
    asked = []
    original = comfy.k_diffusion.sampling.BrownianTreeNoiseSampler

    class Counting(original):
        def __call__(self, sigma, sigma_next):
            asked.append((float(sigma), float(sigma_next)))
            return super().__call__(sigma, sigma_next)

    monkeypatch.setattr(comfy.k_diffusion.sampling, "BrownianTreeNoiseSampler", Counting)
    model = Mixture(flow=False, seed=12)
    sample_mixture(model, "dpmpp_2m_sde", STEPS, 12, reuse())
    narrow_and_whole = 2
    assert len(asked) == narrow_and_whole * len(set(asked))
    assert comfy.k_diffusion.sampling.BrownianTreeNoiseSampler is Counting
