"""Step Reuse on pools of real workers: what it composes with, what it refuses, and how it ends early."""

from __future__ import annotations

import os
import signal
import sys

import cloudpickle
import comfy.hooks
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_easycache as caching
import comfy_extras.nodes_hooks as hook_nodes
import comfy_models
import pytest
import sampling
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.config import CompressionConfig, ConfigError, StepReuseConfig
from compact_parallel.runtime.parallel.step import capacity
from compact_parallel.runtime.pool.errors import JobFailed
from sampling import (
    TOLERANCE,
    expected,
    ksampler,
    masked_image,
    model,
    parallel,
    pool,
    relative_error,
    report,
    sample_with,
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEPS = 12
NEAR = 0.2
LENIENT = {"tolerance": 0.2}  # random weights make a rougher model than training does


def reuse(look_ahead=2, **changes) -> StepReuseConfig:
    """Step Reuse, switched on."""
    return StepReuseConfig(mode="look_ahead", look_ahead=look_ahead, **changes)


def stepped(world=2, look_ahead=2, family="flux", *, compression=None, changes=None, **strategy):
    """The MODEL on `world` workers with Step Reuse."""
    return parallel(model(family), world, compression, step_reuse=reuse(look_ahead, **changes or {}), **strategy)


MESHES = {
    "step 2": (2, 2, {"step_degree": 2}),
    "step 2, batches of 2": (2, 4, {"step_degree": 2}),
    "step 3": (3, 3, {"step_degree": 3}),
    "cfg 2 x step 2": (4, 2, {"cfg_degree": 2, "step_degree": 2}),
    "step 2 x ring 2": (4, 2, {"step_degree": 2, "ring_degree": 2}),
    "step 2 x ulysses 2": (4, 2, {"step_degree": 2, "ulysses_degree": 2}),
    "one worker, batches of 2": (1, 2, {}),
    "auto": (4, 2, {}),
}


@pytest.mark.parametrize("mesh", MESHES)
def test_a_run_is_near_the_serial_one_and_each_round_has_its_calls(mesh):
    world, look_ahead, strategy = MESHES[mesh]
    samples = ksampler(stepped(world, look_ahead, changes={"tolerance": 0.0}, **strategy), "flux", steps=STEPS)
    error = relative_error(samples, ksampler(model("flux"), "flux", steps=STEPS))
    assert TOLERANCE < error < NEAR
    ran = report()
    assert ran["calls"] == STEPS == sum(ran["accepted"])
    assert ran["accepted"][:3] == [1, 1, 1] and ran["accepted"][-1] == 1
    assert ran["rounds"] == len(ran["accepted"])
    assert ran["step_reuse"]["way"] == "line"
    if "batches" not in mesh:  # whether batches pay is measured in the run
        assert max(ran["accepted"]) == look_ahead
    assert ran["corrections"] == 0


@pytest.mark.parametrize("mesh", ["step 2", "cfg 2 x step 2", "step 2 x ring 2"])
def test_without_a_call_to_look_ahead_to_it_is_exact(mesh):
    world, look_ahead, strategy = MESHES[mesh]
    all_serial = stepped(world, look_ahead, changes={"warmup_calls": STEPS - 5, "tail_calls": 1}, **strategy)
    all_serial_samples = ksampler(all_serial, "flux", steps=STEPS)
    assert relative_error(all_serial_samples, ksampler(model("flux"), "flux", steps=STEPS)) < NEAR
    nothing_passes = stepped(world, look_ahead, changes={"tolerance": 1e-9}, **strategy)
    samples = ksampler(nothing_passes, "flux", steps=STEPS)
    assert relative_error(samples, ksampler(model("flux"), "flux", steps=STEPS)) < TOLERANCE
    assert report()["accepted"] == [1] * STEPS


def test_what_crosses_the_link_is_one_latent_per_call():
    ksampler(stepped(step_degree=2, changes={"tolerance": 0.0}), "flux", steps=STEPS)
    latent = comfy_models.latent("flux").numel() * 4
    looked_ahead = STEPS - 4
    alone = 4  # warm-up and tail, whose two conditions the workers share: one latent each
    assert report()["bytes_sent"] == latent * (looked_ahead + 2 * alone)


def test_residual_compression_acts_within_a_group():
    int8 = CompressionConfig(mode="codec", codec="int8")
    mesh = {"step_degree": 2, "ring_degree": 2}
    samples = ksampler(stepped(4, compression=int8, **mesh), "flux", steps=STEPS)
    exact = ksampler(stepped(4, **mesh), "flux", steps=STEPS)
    assert TOLERANCE < relative_error(samples, exact) < NEAR
    assert report()["effective_ratio"] is not None


WORKFLOWS = {
    "masked image": lambda patcher: ksampler(
        patcher, "flux", latent=sampling.masked_image("flux"), denoise=0.6, steps=STEPS
    ),
    "batch of two": lambda patcher: ksampler(patcher, "flux", batch=2, steps=STEPS),
    "cfg 1": lambda patcher: ksampler(patcher, "flux", cfg=1.0, steps=STEPS),
    "sde": lambda patcher: ksampler(patcher, "flux", "dpmpp_2m_sde", steps=STEPS),
    "ancestral": lambda patcher: ksampler(patcher, "flux", "euler_ancestral", steps=STEPS),
    "multistep": lambda patcher: ksampler(patcher, "flux", "res_multistep", steps=STEPS),
    "heun": lambda patcher: ksampler(patcher, "flux", "heun", steps=STEPS),
}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_workflows(workflow):
    run = WORKFLOWS[workflow]
    samples = run(stepped(step_degree=2, changes=LENIENT))
    assert report()["rounds"] < report()["calls"]
    exact = run(model("flux"))
    assert TOLERANCE < relative_error(samples, exact) < NEAR
    assert relative_error(run(stepped(step_degree=2, changes={"tolerance": 1e-9})), exact) < TOLERANCE


def test_where_the_schedule_rises_again_nothing_is_guessed():
    """See parallel/step/test_rises.py for what would come of it."""
    sigmas = torch.tensor([1.0, 0.7, 0.9, 0.6, 0.8, 0.5, 0.44, 0.38, 0.31, 0.25, 0.19, 0.12, 0.06, 0.0])
    sampler = comfy.samplers.sampler_object("euler")
    samples = sample_with(stepped(step_degree=2, changes={"tolerance": 0.5}), sampler, sigmas=sigmas)
    assert TOLERANCE < relative_error(samples, sample_with(model("flux"), sampler, sigmas=sigmas)) < NEAR
    assert report()["accepted"] == [1] * (4 + 3) + [2, 2, 1, 1]
    assert any("began its warm-up after 4 of 13 calls" in warning for warning in report()["warnings"])


def test_a_model_without_a_plan_looks_ahead_too():
    with sampling.without_plan(model("flux")):
        ksampler(stepped(changes=LENIENT), "flux", cfg=1.0, steps=STEPS)
    assert report()["rounds"] < STEPS


REFUSED = {
    "too few steps": ({}, {"steps": 4}, Unsupported, r"needs at least 8 model calls .* but this run has 4"),
    "data-dependent": ({}, {"sampler": "dpm_adaptive", "steps": STEPS}, Unsupported, "dpm_adaptive: it decides by"),
    "idle groups": ({"world": 3, "step_degree": 3}, {"steps": STEPS}, ConfigError, "step_degree is 3 but look_ahead"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_way_out(case):
    choices, run, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        ksampler(stepped(**choices), "flux", **run)


def test_caches_are_refused():
    for node in (caching.EasyCacheNode, caching.LazyCacheNode):
        cached = node.execute(model("flux"), 0.2, 0.15, 0.95, False)[0]
        patcher = parallel(cached, 2, step_reuse=reuse(), step_degree=2)
        with pytest.raises(Unsupported, match=r"Cache skips model calls .* use one of the two"):
            ksampler(patcher, "flux", steps=STEPS)


def scheduled(**about):
    """Conditioning with a LoRA whose strength changes at every step."""
    hooks = comfy.hooks.create_hook_lora(
        comfy_models.lora_weights(model("flux")), strength_model=1.0, strength_clip=0.0
    )
    keyframes = hook_nodes.CreateHookKeyframesInterpolated().create_hook_keyframes(
        1.5, 0.0, "linear", 0.0, 1.0, STEPS, False
    )[0]
    hooks.set_keyframes_on_hooks(keyframes)
    return [[tokens, {**given, **about, "hooks": hooks}] for tokens, given in comfy_models.conditioning(1)]


def test_a_schedule_stands_where_each_call_has_it():
    run = {"steps": STEPS, "positive": scheduled()}
    exact = ksampler(model("flux"), "flux", **run)
    assert relative_error(ksampler(model("flux"), "flux", steps=STEPS), exact) > 100 * TOLERANCE
    for changes in ({"tolerance": 1e-9}, {"tolerance": 1e-9, "warmup_calls": 1}):
        samples = ksampler(stepped(step_degree=2, changes=changes), "flux", **run)
        assert relative_error(samples, exact) < TOLERANCE
    samples = ksampler(stepped(step_degree=2, changes=LENIENT), "flux", **run)
    assert report()["rounds"] < report()["calls"]
    assert TOLERANCE < relative_error(samples, exact) < NEAR


def test_a_default_condition_on_a_schedule_is_refused():
    with pytest.raises(Unsupported, match=r"default condition .* has hooks with keyframes"):
        ksampler(stepped(step_degree=2), "flux", steps=STEPS, positive=scheduled(default=True))


def test_what_acts_by_the_step_is_not_batched():
    masked = {"latent": sampling.masked_image("flux"), "steps": STEPS}
    with pytest.raises(Unsupported, match=r"the latent has a noise mask\. With step_degree 1 nothing is left"):
        ksampler(stepped(1, 2), "flux", **masked)
    ksampler(stepped(2, 4, step_degree=2, changes={"tolerance": 0.0}), "flux", **masked)
    assert max(report()["accepted"]) == 2
    assert any("one call per worker at a time, because the latent has" in warning for warning in report()["warnings"])
    overridden = stepped(1, 2)
    overridden.add_wrapper(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, lambda executor, *args: executor(*args))
    with pytest.raises(Unsupported, match="patches of this model may act by the step"):
        ksampler(overridden, "flux", steps=STEPS)
    injected = stepped(1, 2)
    injected.set_injections("motion", [comfy.patcher_extension.PatcherInjection(inject=print, eject=print)])
    with pytest.raises(Unsupported, match="patches of this model may act by the step"):
        ksampler(injected, "flux", steps=STEPS)


def test_run_on_one_device_is_respected():
    patcher = parallel(model("flux"), 2, step_reuse=reuse(), on_unsupported="run on one device", step_degree=2)
    assert torch.equal(ksampler(patcher, "flux", steps=4), expected("flux", "euler"))
    assert "needs at least 8 model calls" in report()["fallbacks"][0]


@pytest.mark.parametrize("sampler", ["lcm", "euler_cfg_pp"])
def test_a_sampler_that_cannot_look_ahead_runs_on_the_pool_with_a_warning(sampler):
    samples = ksampler(stepped(step_degree=2), "flux", sampler, steps=STEPS)
    assert relative_error(samples, ksampler(model("flux"), "flux", sampler, steps=STEPS)) < TOLERANCE
    assert any(f"the sampler {sampler} runs one call after the other" in warning for warning in report()["warnings"])
    assert report()["rounds"] == report()["calls"]


def other_packs_sampler(wrapped, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler, under a name that nobody has classified."""
    for step in range(len(sigmas) - 1):
        denoised = wrapped(x, sigmas[step] * x.new_ones([x.shape[0]]), **extra_args)
        x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
    return x


def test_another_packs_sampler_runs_on_the_pool_with_a_warning():
    sampler = comfy.samplers.KSAMPLER(other_packs_sampler)
    samples = sample_with(stepped(step_degree=2), sampler, steps=STEPS)
    assert relative_error(samples, sample_with(model("flux"), sampler, steps=STEPS)) < TOLERANCE
    assert any("other_packs_sampler runs one call after the other" in warning for warning in report()["warnings"])


@torch.inference_mode()
def sample(patcher, callback, steps=500):
    """comfy.sample.sample with a callback, as KSampler calls it."""
    latent = comfy_models.latent("flux")
    noise = comfy.sample.prepare_noise(latent, 1)
    given = comfy_models.conditioning(1), comfy_models.conditioning(2), latent
    return comfy.sample.sample(patcher, noise, steps, 3.0, "euler", "simple", *given, callback=callback, seed=1)


def works_again():
    """Whether the pool samples exactly afterwards."""
    samples = ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    return relative_error(samples, expected("flux", "euler")) < TOLERANCE


def test_cancel_in_a_round_keeps_the_pool():
    assert works_again()
    starts = pool(2).starts

    def cancel_at_step_20(step, x0, x, total):
        if step == 20:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stepped(step_degree=2), cancel_at_step_20)
    assert works_again()
    assert pool(2).starts == starts


def test_a_worker_killed_in_a_round_is_made_up_for():
    victim = pool(2).status()["workers"][1]["pid"]

    def kill_at_step_20(step, x0, x, total):
        if step == 20 and pool(2).status()["workers"][1]["pid"] == victim:
            os.kill(victim, signal.SIGKILL)

    sample(stepped(step_degree=2), kill_at_step_20, steps=40)
    assert report()["restarts"] == 1 and report()["resumed_calls"] >= 20
    assert works_again()


def other_noise_on_rank_1(executor, wrap, sigmas, extra, callback, noise, *args, **kwargs):
    """SAMPLER_SAMPLE wrapper: worker 1 starts from a latent that differs in its last bits, as another device's may."""
    if torch.distributed.get_rank() == 1:
        noise = noise * (1 + 1e-6)
    return executor(wrap, sigmas, extra, callback, noise, *args, **kwargs)


def test_workers_whose_latents_differ_take_worker_0s():
    patcher = stepped(step_degree=2)
    samples = ksampler(patcher, "flux", steps=STEPS)
    assert report()["corrections"] == 0
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, other_noise_on_rank_1)
    assert relative_error(ksampler(patcher, "flux", steps=STEPS), samples) < 1e-4
    assert report()["corrections"] > 0


def judges_otherwise(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: worker 0 finds that a batch never pays, worker 1 that it always does."""
    before = capacity.WORTH_BATCHING
    capacity.WORTH_BATCHING = 2.0 if torch.distributed.get_rank() == 0 else -1e9
    try:
        return executor(*args, **kwargs)
    finally:
        capacity.WORTH_BATCHING = before


def test_what_worker_0_finds_of_batches_counts():
    patcher = stepped(2, 2, cfg_degree=2, changes={"tolerance": 0.0})
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, judges_otherwise)
    ksampler(patcher, "flux", steps=STEPS)
    assert report()["accepted"] == [1, 1, 1, 2] + [1] * (STEPS - 5)


def needs_much_memory(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: by its own estimate the model has room for one call at a time on worker 1, and no more."""
    one = executor.class_obj.model_patcher.model.memory_required(list(args[0].shape))
    measured = comfy.model_management.get_free_memory
    if torch.distributed.get_rank() == 1:
        little = 1.5 * 1.5 * one
        comfy.model_management.get_free_memory = lambda device=None, torch_free_too=False: (
            (little, little) if torch_free_too else little
        )
    try:
        return executor(*args, **kwargs)
    finally:
        comfy.model_management.get_free_memory = measured


def test_no_batch_is_tried_that_one_device_has_no_room_for():
    patcher = stepped(2, 2, cfg_degree=2, changes={"tolerance": 0.0})
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, needs_much_memory)
    ksampler(patcher, "flux", steps=STEPS)
    assert report()["accepted"] == [1] * STEPS
    assert any("memory of a device is too small for a batch" in warning for warning in report()["warnings"])


def test_where_conditions_are_shared_exactly_nothing_is_left_to_guess():
    latent = {"latent": masked_image("flux")}  # which rules out batches
    samples = ksampler(stepped(2, 2), "flux", steps=STEPS, **latent)
    assert relative_error(samples, ksampler(model("flux"), "flux", steps=STEPS, **latent)) < TOLERANCE
    assert report()["strategy"]["cfg_degree"] == 2
    assert any(warning.startswith("Step Reuse did nothing: the workers share") for warning in report()["warnings"])


def fails_ahead(executor, *args, **kwargs):
    """APPLY_MODEL wrapper: worker 1 fails at a look-ahead call, while worker 0 is at another."""
    if torch.distributed.get_rank() == 1 and float(args[1].max()) < 0.5:
        raise RuntimeError("no more of this")
    return executor(*args, **kwargs)


def not_finite_ahead(executor, *args, **kwargs):
    """APPLY_MODEL wrapper: the model returns NaN from some noise level on."""
    out = executor(*args, **kwargs)
    return out * float("nan") if float(args[1].max()) < 0.5 else out


@pytest.mark.parametrize(("wrapper", "words"), [(fails_ahead, "no more of this"), (not_finite_ahead, "NaN or Inf")])
def test_a_failing_model_ends_the_run_on_all_workers(wrapper, words):
    patcher = stepped(step_degree=2)
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, wrapper)
    with pytest.raises(JobFailed, match=words):
        ksampler(patcher, "flux", steps=STEPS)
    assert works_again()
