"""Schedules that rise again: on the trained tiny model the picture stays near the serial one, and why."""

from __future__ import annotations

import functools

import comfy.k_diffusion.sampling
import comfy.samplers
import pytest
import tiny_picture
import torch
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.parallel.step import rounds
from compact_parallel.runtime.parallel.step.parametrization import Process, Slopes
from compact_parallel.runtime.parallel.step.replay import Replay
from compact_parallel.runtime.parallel.step.rises import Rises, rises_of
from compact_parallel.runtime.parallel.step.samplers import LINE, Kind
from compact_parallel.runtime.report.metrics import psnr
from stepping import Mixture, OneDevice, in_rounds, sample_mixture

SIZE = 256
LEAST = 45  # dB, at the default tolerance
ZIGZAG = [1.0, 0.7, 0.9, 0.6, 0.8, 0.5, 0.7, 0.4, 0.6, 0.3, 0.5, 0.2, 0.4, 0.1, 0.3, 0.0]
EARLY = [1.0, 0.7, 0.9, 0.6, 0.8, 0.5, 0.44, 0.38, 0.31, 0.25, 0.19, 0.12, 0.06, 0.0]


@torch.inference_mode()
def sample(sigmas: list[float], sampler: str, seed: int, reuse: StepReuseConfig | None = None):
    """The decoded picture, and the calls of each round."""
    patcher, wrapper = tiny_picture.model_for(SIZE), None
    if reuse is not None:
        patcher, wrapper = in_rounds(patcher, reuse)
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(tiny_picture.conditioning(**tiny_picture.prompt(seed)), tiny_picture.conditioning())
    guider.set_cfg(tiny_picture.CFG)
    shape = (1, 16, SIZE // 8, SIZE // 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    chosen = comfy.samplers.sampler_object(sampler)
    samples = guider.sample(noise, torch.zeros(shape), chosen, torch.tensor(sigmas), disable_pbar=True, seed=seed)
    return tiny_picture.picture(samples), wrapper.accepted if wrapper is not None else None


serial = functools.cache(lambda schedule, sampler, seed: sample(list(schedule), sampler, seed)[0])


def decibels(schedule: list[float], sampler: str, seed: int, look_ahead: int) -> tuple[float, list[int]]:
    """PSNR against the serial picture, and the calls of each round."""
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=look_ahead)
    picture, accepted = sample(schedule, sampler, seed, reuse)
    return psnr(picture, serial(tuple(schedule), sampler, seed)), accepted


def no_rises(monkeypatch):
    """The bound as it is on a schedule that only falls."""
    monkeypatch.setattr(rounds, "rises_of", lambda sigmas, levels: Rises())


@pytest.mark.parametrize(
    ("schedule", "sampler", "seed", "look_ahead"),
    [(ZIGZAG, "euler", 2, 4), (EARLY, "heun", 2, 2)],
    ids=["all the way", "at first"],
)
def test_a_schedule_that_rises_again_keeps_the_picture(schedule, sampler, seed, look_ahead, monkeypatch):
    reached, accepted = decibels(schedule, sampler, seed, look_ahead)
    assert reached >= LEAST
    if schedule is EARLY:  # then it falls for long
        assert max(accepted) == look_ahead
    no_rises(monkeypatch)
    assert decibels(schedule, sampler, seed, look_ahead)[0] < LEAST  # the control


@pytest.mark.parametrize("name", ["euler", "heunpp2", "dpmpp_2s_ancestral", "dpm_2", "dpm_fast"])
@pytest.mark.parametrize("rising", [False, True])
def test_on_a_schedule_that_only_falls_or_only_rises_nothing_changes(name, rising, monkeypatch):
    model = Mixture(flow=True, seed=1)
    if rising:  # unsampling
        schedule = model.sigmas(20)[:-1].flip(0)
        monkeypatch.setattr(model, "sigmas", lambda steps: schedule)
    reuse = StepReuseConfig(mode="look_ahead")
    samples, accepted = sample_mixture(model, name, 20, 1, reuse)
    no_rises(monkeypatch)
    before, accepted_before = sample_mixture(model, name, 20, 1, reuse)
    assert torch.equal(samples.nan_to_num(), before.nan_to_num()) and accepted == accepted_before
    assert max(accepted) == 2 or (rising and name in ("dpm_fast", "dpmpp_2s_ancestral"))


@pytest.mark.parametrize(
    ("sigmas", "calls", "growth"),
    [
        ([1.0, 0.6, 0.3, 0.0], 0, 1),
        ([0.1, 0.4, 0.7, 1.0], 0, 1),  # unsampling
        ([1.0, 0.5, 0.75, 0.25, 0.5, 0.0], 4, 3),
        ([0.1, 0.5, 1.0, 0.5, 0.0], 2, 10),  # unsampling and sampling in one
        ([1.0, 0.5, 0.1, 0.3], 3, 3),  # ends in a rise
        ([1.0, 0.0, 0.5, 0.0], 2, 5e5),
        ([1.0, 0.6, 0.6001, 0.3, 0.0], 0, 1),  # rounding
        ([1.0, 0.5, 0.75, 0.3, 0.3001, 0.0], 2, 1.5005),
        ([1.0, 0.6, 0.6, 0.3, 0.0], 0, 1),
    ],
)
def test_the_rises_of_a_schedule(sigmas, calls, growth):
    found = rises_of(sigmas, sigmas[:-1])
    assert (found.calls, found.growth) == (calls, pytest.approx(growth))


def test_a_run_says_where_it_began_to_guess():
    model = Mixture(flow=True, seed=2)
    replay = Replay(comfy.k_diffusion.sampling.sample_euler, model, model.noise(2, 1), torch.tensor(EARLY), {}, {})
    device = OneDevice(model, 2)
    started = rounds.Rounds(StepReuseConfig(mode="look_ahead"), Kind(LINE), device, replay, Slopes(Process(flow=True)))
    assert device.warnings == [
        "Step Reuse began its warm-up after 4 of 13 calls: up to there the schedule rises again, where a small error "
        "may grow."
    ]
    replay.run(started.model(model), None, True)
    assert started.accepted[: 4 + 3] == [1] * 7 and started.accepted[7] == 2
