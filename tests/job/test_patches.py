"""What a workflow hangs on a model reaches the workers, and leaves them again: LoRA, samplings, caches, closures."""

from __future__ import annotations

import sys
import threading

import cloudpickle
import comfy.hooks
import comfy.samplers
import comfy.sd
import comfy_extras.nodes_context_windows
import comfy_extras.nodes_model_advanced
import comfy_models
import pytest
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.comfy.shipping.pickling import ShippingError
from compact_parallel.runtime.compression.codecs import COARSE_TO_EXACT
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.pool.errors import JobFailed
from compact_parallel.runtime.report.plot import draw, to_pixels
from compact_parallel.runtime.report.summary import summarize
from sampling import TOLERANCE, ksampler, model, parallel, pool, relative_error, report, sample_with, without_plan

import nodes as stock

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ARRANGEMENTS = {"all_gather 2": {"ring_degree": 2}, "cfg 2": {"cfg_degree": 2}}


def lora(patcher, strength: float):
    """The MODEL as LoraLoaderModelOnly gives it."""
    return comfy.sd.load_lora_for_models(patcher, None, comfy_models.lora_weights(patcher), strength, 0)[0]


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_lora_is_applied_changed_and_removed_without_a_restart(strategy):
    ksampler(parallel(model("flux"), 2, **strategy), "flux")
    starts = pool(2).starts
    plain = ksampler(model("flux"), "flux")
    for strength in (1.0, 0.5, 0.0, -1.0):
        patched = lora(model("flux"), strength) if strength else model("flux")
        stock = ksampler(patched, "flux")
        samples = ksampler(parallel(patched, 2, **strategy), "flux")
        assert relative_error(samples, stock) < TOLERANCE
        assert strength == 0.0 or relative_error(stock, plain) > 100 * TOLERANCE  # the LoRA matters
    assert pool(2).starts == starts


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_lora_in_bypass_mode_is_injected_in_the_workers_and_taken_out_again(strategy):
    plain = ksampler(model("flux"), "flux")
    bypass = comfy.sd.load_bypass_lora_for_models(
        model("flux"), None, comfy_models.lora_weights(model("flux")), 1.0, 0
    )[0]
    stock = ksampler(bypass, "flux")  # which leaves it injected in this process
    assert relative_error(stock, plain) > 100 * TOLERANCE
    assert relative_error(ksampler(parallel(bypass, 2, **strategy), "flux"), stock) < TOLERANCE
    assert relative_error(ksampler(parallel(model("flux"), 2, **strategy), "flux"), plain) < TOLERANCE
    again = [ksampler(patcher, "flux") for patcher in (parallel(bypass, 2, **strategy), bypass)]
    assert all(relative_error(samples, stock) < TOLERANCE for samples in again)


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_lora_on_the_conditioning_follows_its_schedule_and_leaves_no_trace(strategy):
    plain = ksampler(model("flux"), "flux")
    hook = comfy.hooks.create_hook_lora(comfy_models.lora_weights(model("flux")), strength_model=1.0, strength_clip=0.0)
    schedule = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.3, 0.5)):
        schedule.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
    hook.set_keyframes_on_hooks(schedule)
    positive = comfy.hooks.set_hooks_for_conditioning(comfy_models.conditioning(1), hook)
    stock = ksampler(model("flux"), "flux", positive=positive)
    assert relative_error(stock, plain) > 100 * TOLERANCE
    samples = ksampler(parallel(model("flux"), 2, **strategy), "flux", positive=positive)
    assert relative_error(samples, stock) < TOLERANCE
    assert relative_error(ksampler(parallel(model("flux"), 2, **strategy), "flux"), plain) < TOLERANCE


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_a_schedule_that_both_prompts_share_goes_by_the_calls_of_both(strategy):
    hook = comfy.hooks.create_hook_lora(comfy_models.lora_weights(model("flux")), strength_model=1.0, strength_clip=0.0)
    schedule = comfy.hooks.HookKeyframeGroup()
    for place in range(5):
        schedule.add(comfy.hooks.HookKeyframe(1.5 - place / 4, start_percent=place / 5))
    hook.set_keyframes_on_hooks(schedule)
    positive, late = (comfy.hooks.set_hooks_for_conditioning(comfy_models.conditioning(seed), hook) for seed in (1, 3))
    early = stock.ConditioningSetTimestepRange().set_range(comfy_models.conditioning(2), 0.0, 0.4)[0]
    late = stock.ConditioningSetTimestepRange().set_range(late, 0.4, 1.0)[0]
    run = {"steps": 10, "positive": positive, "negative": early + late}
    expected = ksampler(model("flux"), "flux", **run)
    plain = ksampler(model("flux"), "flux", steps=10, positive=comfy_models.conditioning(1), negative=early + late)
    assert relative_error(plain, expected) > 100 * TOLERANCE
    assert relative_error(ksampler(parallel(model("flux"), 2, **strategy), "flux", **run), expected) < TOLERANCE


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_lora_model_sampling_and_rescale_cfg_together(strategy):
    patched = lora(model("flux"), 1.0)
    patched = comfy_extras.nodes_model_advanced.ModelSamplingFlux().patch(patched, 1.15, 0.5, 512, 512)[0]
    patched = comfy_extras.nodes_model_advanced.RescaleCFG().patch(patched, 0.7)[0]
    stock = ksampler(patched, "flux")
    assert relative_error(ksampler(parallel(patched, 2, **strategy), "flux"), stock) < TOLERANCE
    assert relative_error(stock, ksampler(lora(model("flux"), 1.0), "flux")) > 100 * TOLERANCE


def test_a_closure_over_the_model_itself_travels():
    patched = model("flux").clone()

    def damp(args):
        assert patched.model.model_sampling.sigma_max > 0  # the worker's own model
        return args["denoised"] * (0.9 if patched.model.diffusion_model.num_heads == 2 else 0.0)

    patched.set_model_sampler_post_cfg_function(damp)
    stock = ksampler(patched, "flux")
    assert relative_error(ksampler(parallel(patched, 2, ring_degree=2), "flux"), stock) < TOLERANCE


def test_what_cannot_travel_is_named():
    patched = model("flux").clone()
    lock = threading.Lock()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] if lock else None)
    with pytest.raises(ShippingError, match=r"patches and wrappers.*cannot be sent.*lock"):
        ksampler(parallel(patched, 2, ring_degree=2), "flux")


def test_a_model_of_a_loader_without_a_recipe_travels_itself():
    patched = lora(model("flux"), 1.0)
    patched.cached_patcher_init = None
    stock = ksampler(patched, "flux")  # which leaves the LoRA in its weights
    for strategy in ARRANGEMENTS.values():
        assert relative_error(ksampler(parallel(patched, 2, **strategy), "flux"), stock) < TOLERANCE
    assert relative_error(stock, ksampler(model("flux"), "flux")) > 100 * TOLERANCE


def test_a_model_without_a_recipe_that_cannot_travel_is_named():
    patched = model("flux").clone()
    patched.cached_patcher_init = None
    patched.model.lock = threading.Lock()
    try:
        with pytest.raises(ShippingError, match=r"Flux .*keeps no recipe.*lock.*run on one device"):
            ksampler(parallel(patched, 2, ring_degree=2), "flux")
        fallback = parallel(patched, 2, on_unsupported="run on one device", ring_degree=2)
        assert torch.equal(ksampler(fallback, "flux"), ksampler(model("flux"), "flux"))
    finally:
        del patched.model.lock


def test_a_model_that_multigpu_cfg_split_has_copied_is_refused():
    patched = model("flux").clone()
    patched.set_additional_models("multigpu", [model("flux").clone()])
    with pytest.raises(Unsupported, match="bypass that node"):
        ksampler(parallel(patched, 2, ring_degree=2), "flux")


def test_a_model_without_a_plan_is_refused_or_runs_on_one_device():
    stock = ksampler(model("flux"), "flux")
    with without_plan(model("flux")):
        with pytest.raises(Unsupported, match=r"no sequence-parallel plan for Unheard.*cfg_degree 2"):
            ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
        fallback = parallel(model("flux"), 2, on_unsupported="run on one device", ring_degree=2)
        assert torch.equal(ksampler(fallback, "flux"), stock)
        assert "no sequence-parallel plan" in report()["fallbacks"][0]
        assert report()["workers"] == 1
        assert to_pixels(draw(report(), COARSE_TO_EXACT)).shape[2] == 3  # Parallel Report shows it
        assert "one device" in summarize(report()) or "no sequence-parallel plan" in summarize(report())


def test_what_a_guard_refuses_in_the_workers_is_a_sentence_or_runs_on_one_device():
    patched = model("flux").clone()
    patched.set_model_patch(lambda q, k, v, **_: {"q": q, "k": k, "v": v}, "another_patch")
    stock = ksampler(patched, "flux")
    starts = pool(2).starts
    with pytest.raises(JobFailed, match="of the kind another_patch; set on_unsupported of Parallel Model") as caught:
        ksampler(parallel(patched, 2, ring_degree=2), "flux")
    assert "Traceback" not in str(caught.value)
    fallback = parallel(patched, 2, on_unsupported="run on one device", ring_degree=2)
    assert torch.equal(ksampler(fallback, "flux"), stock)
    assert relative_error(ksampler(parallel(patched, 2, cfg_degree=2), "flux"), stock) < TOLERANCE
    assert pool(2).starts == starts


def test_auto_shares_the_cfg_of_a_model_without_a_plan_on_two_of_three_workers():
    stock = ksampler(model("flux"), "flux")
    with without_plan(model("flux")):
        assert relative_error(ksampler(parallel(model("flux"), 3), "flux"), stock) < TOLERANCE
    assert report()["workers"] == 2


def draw_from_the_global_generator(wrapped, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler that takes noise from torch's global generator, as Euler with s_churn does."""
    for step in range(len(sigmas) - 1):
        denoised = wrapped(x, sigmas[step] * x.new_ones([x.shape[0]]), **extra_args)
        x = denoised + torch.randn_like(x) * sigmas[step + 1]
    return x


def test_samplers_that_draw_from_the_global_generator_draw_the_same_noise():
    sampler = comfy.samplers.KSAMPLER(draw_from_the_global_generator)
    torch.manual_seed(11)
    stock = sample_with(model("flux"), sampler)
    torch.manual_seed(11)
    assert relative_error(sample_with(parallel(model("flux"), 2, ring_degree=2), sampler), stock) < TOLERANCE
    torch.manual_seed(12)
    assert relative_error(sample_with(parallel(model("flux"), 2, ring_degree=2), sampler), stock) > 100 * TOLERANCE


class InPlace(comfy.samplers.Sampler):
    """A sampler that writes into the noise it is given, as it may."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_):
        noise.mul_(0.5)
        return model_wrap(noise, sigmas[:1].expand(len(noise)), model_options=extra_args["model_options"])


def test_what_a_run_writes_into_its_tensors_is_gone_with_the_next():
    stock = sample_with(model("flux"), InPlace(), batch=4)  # large enough to be mapped from the store
    for _ in range(2):
        samples = sample_with(parallel(model("flux"), 2, ring_degree=2), InPlace(), batch=4)
        assert relative_error(samples, stock) < TOLERANCE


@torch.inference_mode()
def with_area(patcher, steps=6):
    """KSampler with a second positive condition over a part of the picture, as Conditioning (Set Area) makes it."""
    positive, part, negative = (comfy_models.conditioning(seed) for seed in (1, 4, 2))
    part = stock.ConditioningSetArea().append(part, 64, 128, 0, 0, 1.0)[0]
    both = stock.ConditioningCombine().combine(positive, part)[0]
    latent = {"samples": comfy_models.latent("flux")}
    return stock.KSampler().sample(patcher, 5, steps, 3.0, "euler", "simple", both, negative, latent)[0]["samples"]


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_area_conditioning_is_exact_and_survives_compression(strategy):
    plain = with_area(model("flux"))
    assert relative_error(with_area(parallel(model("flux"), 2, **strategy)), plain) < TOLERANCE
    compression = CompressionConfig(mode="codec", codec="int8")
    assert relative_error(with_area(parallel(model("flux"), 2, compression, **strategy)), plain) < 0.01
    assert relative_error(ksampler(model("flux"), "flux", steps=6), plain) > 0.01  # the area matters


def test_every_context_window_of_a_long_video_is_compressed_against_itself():
    windows = comfy_extras.nodes_context_windows.ContextWindowsManualNode.execute(
        model("wan"), 5, 2, "standard_static", 1, False, "pyramid", 2, False
    )[0]
    errors = {}
    for name, patcher, frames in (("windows", windows, 9), ("whole", model("wan"), 5)):
        latent = {"samples": torch.zeros(1, 16, frames, 6, 6)}
        compression = CompressionConfig(mode="codec", codec="4bit")
        ksampler(parallel(patcher, 2, compression, ring_degree=2), "wan", latent=latent, steps=6)
        errors[name] = report()["max_relative_error"]
    assert errors["windows"] < 1.5 * errors["whole"]


def test_a_model_that_was_changed_in_place_is_named():
    changed = model("flux").clone()
    module = changed.model.diffusion_model.img_in
    module._conv_forward = lambda *args: None
    try:
        with pytest.raises(ShippingError, match=r"changed a convolution .*in place .*img_in.*Bypass that node"):
            ksampler(parallel(changed, 2, cfg_degree=2), "flux")
    finally:
        del module._conv_forward
