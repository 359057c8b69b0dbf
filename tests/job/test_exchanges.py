"""Ways to exchange that are not exact: a whole run with each, and what they leave behind."""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import comfy_models
import pytest
import torch
from compact_parallel.runtime.config import CompressionConfig
from sampling import TOLERANCE, expected, ksampler, model, parallel, pool, relative_error, report

INT8 = CompressionConfig(mode="codec", codec="int8")
ARRANGEMENTS = {
    "displaced 2": (2, {"ring_degree": 2, "ring_exchange": "displaced"}, None),
    "displaced 3, int8": (3, {"ring_degree": 3, "ring_exchange": "displaced"}, INT8),
    "ulysses 2 x displaced 2": (4, {"ulysses_degree": 2, "ring_degree": 2, "ring_exchange": "displaced"}, None),
    "ulysses 2, int8": (2, {"ulysses_degree": 2}, INT8),
    "ulysses 2 x all_gather 2, int8": (4, {"ulysses_degree": 2, "ring_degree": 2}, INT8),
}


def exact_again(world):
    """The error of an exact run on the same workers."""
    samples = ksampler(parallel(model("flux"), world, CompressionConfig(mode="off"), ring_degree=world), "flux")
    return relative_error(samples, expected("flux", "euler"))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_run_is_near_the_stock_result_and_the_next_one_is_exact(arrangement):
    world, strategy, compression = ARRANGEMENTS[arrangement]
    off = CompressionConfig(mode="off")
    samples = ksampler(parallel(model("flux"), world, compression or off, **strategy), "flux", steps=6)
    error = relative_error(samples, ksampler(model("flux"), "flux", steps=6))
    assert TOLERANCE < error < 0.2
    assert report()["hidden_seconds"] > 0 or "displaced" not in arrangement
    assert exact_again(world) < TOLERANCE


@torch.inference_mode()
def test_a_cancelled_displaced_run_leaves_nothing_to_the_next():
    exact_again(2)
    starts = pool(2).starts

    def cancel_at_step_4(step, x0, x, total):
        if step == 4:
            comfy.model_management.interrupt_current_processing()

    patcher = parallel(model("flux"), 2, CompressionConfig(mode="off"), ring_degree=2, ring_exchange="displaced")
    latent = comfy_models.latent("flux")
    given = comfy_models.conditioning(1), comfy_models.conditioning(2), latent
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        noise = comfy.sample.prepare_noise(latent, 1)
        comfy.sample.sample(patcher, noise, 500, 3.0, "euler", "simple", *given, callback=cancel_at_step_4, seed=1)
    assert exact_again(2) < TOLERANCE
    assert pool(2).starts == starts
