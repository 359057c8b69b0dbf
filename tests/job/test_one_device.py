"""What workers cannot do, or fail at, is done on one device where that is asked for; a stop and a cancel are not."""

from __future__ import annotations

import os
import signal
import sys

import cloudpickle
import comfy.model_management
import comfy.sample
import comfy_extras.nodes_train as train
import comfy_models
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.attention.unsupported import OTHER_DEGREES
from compact_parallel.runtime.comfy.run.outer_sample import ParallelSampling
from compact_parallel.runtime.comfy.shipping.sampling_job import SamplingJob
from compact_parallel.runtime.config import ParallelConfig, PoolConfig
from compact_parallel.runtime.planner.experience import TRIES, experience
from compact_parallel.runtime.pool.errors import JobFailed, NoConnection, PoolError, Stopped
from compact_parallel.runtime.report.live import live
from sampling import TOLERANCE, ksampler, model, parallel, pool, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

ONE_DEVICE = {"on_unsupported": "run on one device"}


@pytest.fixture(autouse=True)
def nothing_known():
    """Each test begins in a process that has run nothing."""
    experience.cache_clear()


def rank() -> int | None:
    """The worker this runs on; None in ComfyUI's own process."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else None


def fails_on(*ranks):
    """An APPLY_MODEL wrapper that fails there, at the first call."""

    def wrapper(executor, *args, **kwargs):
        if rank() in ranks:
            raise ZeroDivisionError("a patch of the workflow fails")
        return executor(*args, **kwargs)

    return wrapper


def failing(*ranks, **choices):
    """Flux on two workers with such a patch."""
    patcher = parallel(model("flux"), 2, **{"ring_degree": 2, **choices})
    patcher.add_wrapper(WrappersMP.APPLY_MODEL, fails_on(*ranks))
    return patcher


def stock():
    return ksampler(model("flux"), "flux")


@torch.inference_mode()
def watched(patcher, callback, sampler="euler"):
    """Samples with a callback, as KSampler has one."""
    latent = comfy_models.latent("flux")
    noise = comfy.sample.prepare_noise(latent, 1)
    conditions = comfy_models.conditioning(1), comfy_models.conditioning(2)
    return comfy.sample.sample(
        patcher, noise, 50, 3.0, sampler, "simple", *conditions, latent, callback=callback, seed=1
    )


def trained(patcher, family, seed=0, **changes):
    """The LoRA and the losses of Train LoRA."""
    latent = torch.randn(comfy_models.latent(family).shape, generator=torch.Generator().manual_seed(7))
    given = {
        "model": patcher,
        "latents": {"samples": latent},
        "batch_size": 1,
        "steps": 3,
        "grad_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "rank": 2,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": seed,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": True,
        "checkpoint_depth": 1,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": False,
        **changes,
    }
    torch.manual_seed(seed)
    with torch.inference_mode():  # as ComfyUI executes nodes
        out = train.TrainLoraNode.execute(
            positive=[comfy_models.conditioning(1)], **{name: [value] for name, value in given.items()}
        )
    return out[0], out[1]["loss"]


@pytest.mark.parametrize("family", ["sd3", "wan"])
@pytest.mark.parametrize("bypass", [False, True], ids=["weights", "bypass"])
def test_a_lora_is_trained_as_without_workers(family, bypass):
    starts = pool(2).starts
    lora, losses = trained(model(family), family, bypass_mode=bypass)
    assert len(losses) == 3 and losses[0] != losses[-1]
    patcher = parallel(model(family), 2, ring_degree=2)
    own_lora, own_losses = trained(patcher, family, bypass_mode=bypass)
    assert own_losses == losses
    assert own_lora.keys() == lora.keys()
    assert all(torch.equal(own_lora[name], lora[name]) for name in lora)
    assert any(bool(tensor.any()) for name, tensor in lora.items() if "lora_up" in name)  # it has learnt something
    (reason,) = report()["fallbacks"]
    assert reason.startswith("This run trains: it needs gradients")
    assert pool(2).starts == starts
    _, others = trained(model(family), family, seed=1, bypass_mode=bypass)
    assert others != losses


def test_sampling_with_gradients_switched_on_is_not_training():
    samples = ksampler.__wrapped__(parallel(model("flux"), 2, ring_degree=2), "flux")  # without inference_mode
    assert torch.is_grad_enabled()
    assert report()["fallbacks"] == []
    assert relative_error(samples, stock()) < TOLERANCE


def test_an_error_that_all_ranks_meet_leaves_them_warm_and_the_next_run_right():
    starts = pool(2).starts + (pool(2).state != "idle")
    for strategy in ({}, {"ring_degree": 1, "cfg_degree": 2}):
        with pytest.raises(JobFailed, match="a patch of the workflow fails") as caught:
            ksampler(failing(0, 1, **strategy), "flux")
        assert "in wrapper" in str(caught.value)  # the traceback
        samples = ksampler(parallel(model("flux"), 2, **(strategy or {"ring_degree": 2})), "flux")
        assert relative_error(samples, stock()) < TOLERANCE
    assert pool(2).starts == starts


def test_an_error_of_one_rank_restarts_them():
    starts = pool(2).starts + (pool(2).state != "idle")
    assert relative_error(ksampler(failing(1, **ONE_DEVICE), "flux"), stock()) < TOLERANCE
    assert report()["fallbacks"] == ["The workers failed (ZeroDivisionError: a patch of the workflow fails)."]
    assert pool(2).state == "failed"
    assert relative_error(ksampler(parallel(model("flux"), 2, ring_degree=2), "flux"), stock()) < TOLERANCE
    assert pool(2).starts == starts + 1


def unfit_on(*ranks):
    """An APPLY_MODEL wrapper that gives the hooks of those ranks what they do not know."""

    def wrapper(executor, x, t, c_concat, c_crossattn, control, options, **more):
        if rank() in ranks:
            options = {**options, "patches": 5}
        return executor(x, t, c_concat, c_crossattn, control, options, **more)

    return wrapper


@pytest.mark.parametrize("ranks", [(0, 1), (1,)], ids=["all", "one"])
def test_a_hook_that_fails_is_a_refusal_and_only_one_that_fails_alone_restarts_the_workers(ranks):
    pool(2).start()
    starts = pool(2).starts
    patcher = parallel(model("flux"), 2, ring_degree=2)
    patcher.add_wrapper(WrappersMP.APPLY_MODEL, unfit_on(*ranks))
    with pytest.raises(JobFailed) as caught:
        ksampler(patcher, "flux")
    said = str(caught.value)
    assert said.startswith("Parallel Model's own code failed outside of the model's modules with ComfyUI ")
    assert "'int' object has no attribute" in said and said.endswith(f"; {OTHER_DEGREES}")
    assert relative_error(ksampler(parallel(model("flux"), 2, ring_degree=2), "flux"), stock()) < TOLERANCE
    assert pool(2).starts == starts + (ranks == (1,))


def test_workers_that_fail_again_and_again_are_not_asked_again():
    failure = "The workers failed (ZeroDivisionError: a patch of the workflow fails)."
    patcher = failing(0, 1, **ONE_DEVICE)
    for _ in range(TRIES):
        assert relative_error(ksampler(patcher, "flux"), stock()) < TOLERANCE
        assert report()["fallbacks"] == [failure]
    for _ in range(2):
        assert relative_error(ksampler(patcher, "flux"), stock()) < TOLERANCE
        (reason,) = report()["fallbacks"]
        assert reason == (
            "The workers were not asked again, as they failed 2 times in a row or more; restart them in the tab "
            f"Parallel to have it tried. Last time: {failure}"
        )
    for _ in range(TRIES + 1):
        with pytest.raises(JobFailed):  # who wants the error decides for himself
            ksampler(failing(0, 1), "flux")
    pool(2).restart()
    ksampler(patcher, "flux")
    assert report()["fallbacks"] == [failure]


def test_what_fails_without_workers_too_is_comfyuis_own_error():
    with pytest.raises(ZeroDivisionError, match="a patch of the workflow fails"):
        ksampler(failing(None, 0, 1, **ONE_DEVICE), "flux")


def test_what_cannot_be_written_for_the_workers_is_made_up_for(monkeypatch):
    def no_space(self, directory):
        raise OSError("A tensor of 9 MB for the workers cannot be written. Free some space there.")

    monkeypatch.setattr(SamplingJob, "pack", no_space)
    with pytest.raises(OSError, match="Free some space"):
        ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    samples = ksampler(parallel(model("flux"), 2, ring_degree=2, **ONE_DEVICE), "flux")
    assert relative_error(samples, stock()) < TOLERANCE
    assert report()["fallbacks"] == ["A tensor of 9 MB for the workers cannot be written. Free some space there."]


def test_degrees_that_do_not_fit_the_workflow_are_made_up_for():
    samples = ksampler(parallel(model("flux"), 2, data_degree=2, **ONE_DEVICE), "flux")
    assert relative_error(samples, stock()) < TOLERANCE
    (reason,) = report()["fallbacks"]
    assert reason.startswith("data_degree is 2 but the latent has a batch of 1")


def test_workers_that_do_not_start_are_made_up_for():
    slow = PoolConfig(devices="cpu*2", name="too-slow", start_timeout_s=0.1)
    for choice in ("error", "run on one device"):
        patcher = model("flux").clone()
        config = ParallelConfig(pool=slow, on_unsupported=choice)
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "compact_parallel", ParallelSampling(config))
        if choice == "error":
            with pytest.raises(PoolError, match="start_timeout_s"):
                ksampler(patcher, "flux")
        else:
            assert relative_error(ksampler(patcher, "flux"), stock()) < TOLERANCE
    (reason,) = report()["fallbacks"]
    assert reason.startswith("start_timeout_s: worker 0 (cpu), worker 1 (cpu) did not start within 0.1 s")


@pytest.mark.parametrize("choice", ["error", "run on one device"])
def test_workers_that_cannot_connect_are_made_up_for(choice, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "missing")
    config = ParallelConfig(pool=PoolConfig(devices="cpu*2", name=f"apart-{choice[0]}"), on_unsupported=choice)
    patcher = model("flux").clone()
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "compact_parallel", ParallelSampling(config))
    if choice == "error":
        with pytest.raises(NoConnection, match="could not exchange data with the other workers by gloo"):
            ksampler(patcher, "flux")
        return
    assert relative_error(ksampler(patcher, "flux"), stock()) < TOLERANCE
    (reason,) = report()["fallbacks"]
    assert "could not exchange data with the other workers by gloo (" in reason and "\n" not in reason


def test_a_cancel_stays_a_cancel():
    def cancel_at_step_2(step, x0, x, total):
        steps.append(step)
        if step == 2:
            comfy.model_management.interrupt_current_processing()

    steps = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        watched(parallel(model("flux"), 2, ring_degree=2, **ONE_DEVICE), cancel_at_step_2)
    assert steps == [0, 1, 2]


def test_the_end_of_a_worker_is_made_up_for_on_one_device_where_the_run_cannot_be_resumed():
    def kill_at_step_2(step, x0, x, total):
        sent[bool(killed)].add(live().of("test-2").bytes_sent > 0)
        if step == 2 and not killed:
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    pool(2).start()
    victim = pool(2).status()["workers"][1]["pid"]
    killed, sent = [], {False: set(), True: set()}
    samples = watched(parallel(model("flux"), 2, ring_degree=2, **ONE_DEVICE), kill_at_step_2, "lcm")
    assert sent == {False: {True}, True: {False}}  # what is told of the run is what it is now
    assert relative_error(samples, watched(model("flux"), None, "lcm")) < TOLERANCE
    (reason,) = report()["fallbacks"]
    assert reason == f"Worker 1 (cpu), process {victim}, ended with signal 9; the pool restarts on the next run."


def test_a_stop_by_hand_stays_a_stop():
    ended = []

    def stop_at_step_2(step, x0, x, total):
        if step == 2:
            pool(2)._group.stopping.add(0)  # as Pool.stop does, from another thread
            pool(2)._group.kill()
            ended.append(step)

    try:
        with pytest.raises(Stopped, match="was stopped while it was in use"):
            watched(parallel(model("flux"), 2, ring_degree=2, **ONE_DEVICE), stop_at_step_2)
    finally:
        pool(2)._group.stopping.discard(0)
    assert ended == [2]
