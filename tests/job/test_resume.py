"""A run goes on when a worker dies: the picture is that of a run without the fault, and no finished call is evaluated
twice."""

from __future__ import annotations

import os
import signal

import comfy.sample
import comfy_models
import pytest
import torch
from compact_parallel.runtime.config import CompressionConfig, StepReuseConfig
from sampling import TOLERANCE, model, parallel, pool, relative_error, report

STEPS = 10
KILL_AT = 4
LOOK_AHEAD = StepReuseConfig(mode="look_ahead", look_ahead=2, tolerance=0.0)


@torch.inference_mode()
def sample(patcher, sampler="euler", callback=None, batch=1, steps=STEPS):
    """comfy.sample.sample, as KSampler calls it."""
    latent = comfy_models.latent("flux").repeat(batch, 1, 1, 1)
    torch.manual_seed(7)
    noise = comfy.sample.prepare_noise(latent, 1)
    positive, negative = comfy_models.conditioning(1), comfy_models.conditioning(2)
    return comfy.sample.sample(
        patcher, noise, steps, 3.0, sampler, "simple", positive, negative, latent, callback=callback, seed=1
    )


class Killer:
    """A callback that kills a worker when a step has ended, once. `steps`: those that it was told of."""

    def __init__(self, rank, step=KILL_AT):
        self.steps, self._rank, self._step = [], rank, step

    def __call__(self, step, x0, x, total):
        self.steps.append(step)
        if step == self._step and self.steps.count(step) == 1:
            os.kill(pool(2).status()["workers"][self._rank]["pid"], signal.SIGKILL)


@pytest.mark.parametrize(
    ("sampler", "rank", "options"),
    [
        ("euler", 0, {"ring_degree": 2}),
        ("euler", 1, {"cfg_degree": 2}),
        ("dpmpp_2m", 1, {"ulysses_degree": 2}),
        ("heun", 0, {"cfg_degree": 2}),
        ("euler_ancestral", 0, {"ring_degree": 2}),
        ("dpmpp_2m_sde", 1, {"cfg_degree": 2}),
        ("euler", 0, {"step_degree": 2, "step_reuse": LOOK_AHEAD}),
        ("dpmpp_2m_sde", 1, {"step_degree": 2, "step_reuse": LOOK_AHEAD}),
    ],
    ids=str,
)
def test_the_picture_is_that_of_a_run_without_the_fault(sampler, rank, options):
    patcher = parallel(model("flux"), 2, **options)
    expected = sample(patcher, sampler)
    calls = report()["calls"]
    killer = Killer(rank)
    samples = sample(patcher, sampler, killer)
    found = report()
    assert torch.equal(samples, expected) or relative_error(samples, expected) < 1e-6
    assert found["restarts"] == 1 and 0 < found["resumed_calls"] < calls
    assert found["calls"] + found["resumed_calls"] == calls
    assert sorted(set(killer.steps)) == list(range(STEPS)) and len(killer.steps) <= STEPS + 2


def test_a_batch_and_compression():
    """Streams start anew, so the picture is near, not equal."""
    two_bit = CompressionConfig(mode="codec", codec="2bit")
    patcher = parallel(model("flux"), 2, two_bit, ring_degree=2)
    expected = sample(patcher, batch=2)
    samples = sample(patcher, callback=Killer(0), batch=2)
    assert 0 < relative_error(samples, expected) < 0.1
    assert report()["restarts"] == 1


def test_wrong_predictions_are_seen(monkeypatch):
    """Negative control: the run that goes on from others is another picture."""
    from compact_parallel.runtime.parallel import prediction_log

    monkeypatch.setattr(prediction_log, "_read", lambda payload: torch.zeros_like(_original(payload)))
    patcher = parallel(model("flux"), 2, ring_degree=2)
    expected = sample(patcher)
    assert relative_error(sample(patcher, callback=Killer(1)), expected) > TOLERANCE


def _original(payload):
    import safetensors.torch

    return safetensors.torch.load(payload)["prediction"]
