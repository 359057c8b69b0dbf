"""Workers that are stopped (SIGSTOP), or in a long call when the run is cancelled: with real sampling jobs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import comfy.model_management
import comfy.sample
import comfy_models
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.pool.errors import WorkerSilent
from compact_parallel.runtime.pool.registry import pools
from sampling import TOLERANCE, expected, ksampler, model, parallel, pool, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
ANSWERED_S = 5.0
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(autouse=True)
def no_stale_interrupt():
    yield
    comfy.model_management.interrupt_current_processing(False)


@pytest.fixture(scope="module")
def impatient():
    """From here on, the shared pool waits no longer than two seconds for an answer."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pools(), "silence_seconds", 2.0)
        pool(2).stop()
        patched.delitem(pools()._pools, "test-2")
        yield
        pool(2).stop()


@torch.inference_mode()
def sample(patcher, callback, steps=500, sampler="euler"):
    """comfy.sample.sample with a callback, as KSampler calls it."""
    latent = comfy_models.latent("flux")
    noise = comfy.sample.prepare_noise(latent, 1)
    positive, negative = comfy_models.conditioning(1), comfy_models.conditioning(2)
    return comfy.sample.sample(
        patcher, noise, steps, 3.0, sampler, "simple", positive, negative, latent, callback=callback, seed=1
    )


def pids() -> list[int]:
    return [worker["pid"] for worker in pool(2).status()["workers"]]


def works(**strategy) -> bool:
    """Whether the next run gives what stock ComfyUI does."""
    samples = ksampler(parallel(model("flux"), 2, **(strategy or {"ring_degree": 2})), "flux")
    return relative_error(samples, expected("flux", "euler")) < TOLERANCE


def test_another_seed_would_be_seen():
    """Negative control of `works`."""
    other = sample(model("flux"), None, steps=4)
    assert relative_error(other, expected("flux", "euler")) > 100 * TOLERANCE


def test_a_cancel_while_a_worker_is_stopped():
    assert works()
    before, moments = pids(), []

    def stop_and_cancel(step, x0, x, total):
        if step == 2:
            os.kill(before[1], signal.SIGSTOP)
            comfy.model_management.interrupt_current_processing()
            moments.append(time.monotonic())

    with pytest.raises(Interrupted):
        sample(parallel(model("flux"), 2, ring_degree=2), stop_and_cancel)
    assert time.monotonic() - moments[0] < ANSWERED_S
    assert pool(2).error.startswith(f"Worker 1 (cpu), process {before[1]}, has not answered for")
    assert works()


class Held:
    """A DIFFUSION_MODEL wrapper: a call lasts for as long as the file `hold` is there; `inside` says that it does."""

    def __init__(self, folder: Path) -> None:
        self.hold, self.inside = folder / "hold", folder / "inside"

    def __call__(self, executor, *args, **kwargs):
        while self.hold.exists():
            self.inside.touch()
            threading.Event().wait(0.02)
        return executor(*args, **kwargs)


def test_a_cancel_in_a_long_call_leaves_the_workers_warm(tmp_path):
    assert works(cfg_degree=2)
    before, held = pids(), Held(tmp_path)
    held.hold.touch()
    patcher = model("flux").clone()
    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "held", held)
    moments = []

    def cancel_inside():
        while not held.inside.exists():
            threading.Event().wait(0.02)
        moments.append(time.monotonic())
        comfy.model_management.interrupt_current_processing()

    canceller = threading.Thread(target=cancel_inside, daemon=True)
    canceller.start()
    with pytest.raises(Interrupted):
        sample(parallel(patcher, 2, cfg_degree=2), None)
    assert time.monotonic() - moments[0] < ANSWERED_S
    assert pool(2).state == "finishing"
    held.hold.unlink()
    assert works(cfg_degree=2)
    assert pids() == before


def test_unloading_all_models_with_a_stopped_worker_ends(impatient):
    """What /free does, in the thread that runs the prompts: it must neither hang nor end it."""
    assert works()
    os.kill(pids()[1], signal.SIGSTOP)
    begun = time.monotonic()
    comfy.model_management.unload_all_models()
    assert time.monotonic() - begun < 10
    assert pool(2).state == "failed"
    assert works()


def test_a_run_whose_worker_is_stopped_is_resumed(impatient):
    assert works()
    before = pids()

    def stop(step, x0, x, total):
        if step == 2 and pids() == before:
            os.kill(before[1], signal.SIGSTOP)

    expected = sample(parallel(model("flux"), 2, ring_degree=2), None, steps=8)
    samples = sample(parallel(model("flux"), 2, ring_degree=2), stop, steps=8)
    assert torch.equal(samples, expected) and report()["restarts"] == 1


def test_a_stopped_worker_is_named_where_the_run_cannot_be_resumed(impatient):
    assert works()
    before = pids()

    def stop(step, x0, x, total):
        if step == 2:
            os.kill(before[1], signal.SIGSTOP)

    with pytest.raises(WorkerSilent, match=rf"^Worker 1 \(cpu\), process {before[1]}, has not answered for 2 s"):
        sample(parallel(model("flux"), 2, ring_degree=2), stop, sampler="lcm")
    assert works()
