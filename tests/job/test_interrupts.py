"""Cancel, death and progress of a sampling run."""

from __future__ import annotations

import os
import signal
import time

import comfy.model_management
import comfy.sample
import comfy_models
import pytest
import torch
from compact_parallel.runtime.pool.errors import WorkerDied
from device import DEVICE
from sampling import TOLERANCE, expected, ksampler, model, parallel, pool, relative_error


@torch.inference_mode()
def sample(patcher, callback, steps=20, sampler="euler"):
    """comfy.sample.sample with a callback, as KSampler calls it."""
    latent = comfy_models.latent("flux")
    noise = comfy.sample.prepare_noise(latent, 1)
    positive, negative = comfy_models.conditioning(1), comfy_models.conditioning(2)
    return comfy.sample.sample(
        patcher, noise, steps, 3.0, sampler, "simple", positive, negative, latent, callback=callback, seed=1
    )


def test_progress_and_previews_are_those_of_stock_sampling():
    seen = {"stock": [], "parallel": []}

    def record(name):
        return lambda step, x0, x, total: seen[name].append((step, x0.clone(), x.clone(), total))

    sample(model("flux"), record("stock"), steps=4)
    sample(parallel(model("flux"), 2, ring_degree=2), record("parallel"), steps=4)
    assert [(step, total) for step, _, _, total in seen["parallel"]] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    for (_, x0, x, _), (_, stock_x0, stock_x, _) in zip(seen["parallel"], seen["stock"], strict=True):
        assert relative_error(x0, stock_x0) < TOLERANCE
        assert relative_error(x, stock_x) < TOLERANCE


@pytest.mark.alone
def test_cancel_ends_the_run_within_a_step_and_keeps_the_pool():
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    starts = pool(2).starts
    steps, moments = [], {}

    def cancel_at_step_3(step, x0, x, total):
        steps.append(step)
        moments[step] = time.monotonic()
        if step == 3:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(parallel(model("flux"), 2, ring_degree=2), cancel_at_step_3, steps=500)
    ended = time.monotonic()
    assert steps[-1] == 3
    longest_step = max(moments[step + 1] - moments[step] for step in range(3))
    assert ended - moments[3] < longest_step + 0.5
    samples = ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE
    assert pool(2).starts == starts


def test_after_a_cancelled_run_the_parent_sees_what_the_workers_hold():
    comfy.model_management.unload_all_models()

    def cancel(step, x0, x, total):
        comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(parallel(model("flux"), 2, ring_degree=2), cancel, steps=500)
    comfy.model_management.unload_all_models()
    assert [worker["state"] for worker in pool(2).status()["workers"]] == ["parked", "parked"]


def test_a_killed_worker_is_named_where_the_run_cannot_be_resumed_and_the_next_run_works():
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    victim = pool(2).status()["workers"][1]["pid"]
    killed = []

    def kill_at_step_2(step, x0, x, total):
        if step == 2:
            os.kill(victim, signal.SIGKILL)
            killed.append(time.monotonic())

    with pytest.raises(WorkerDied, match=rf"Worker 1 \({DEVICE}\), process {victim}, ended with signal 9"):
        sample(parallel(model("flux"), 2, ring_degree=2), kill_at_step_2, steps=500, sampler="lcm")
    assert time.monotonic() - killed[0] < 5
    assert pool(2).state == "failed"
    samples = ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE


def test_unloading_all_models_parks_the_workers_and_the_next_run_unparks_them():
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    starts = pool(2).starts
    comfy.model_management.unload_all_models()  # what /free does
    assert [worker["state"] for worker in pool(2).status()["workers"]] == ["parked", "parked"]
    samples = ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE
    assert [worker["state"] for worker in pool(2).status()["workers"]] == ["idle", "idle"]
    assert pool(2).starts == starts
