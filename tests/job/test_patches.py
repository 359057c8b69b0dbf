"""What a workflow hangs on a model reaches the workers, and leaves them again: LoRA, samplings, caches, closures."""

from __future__ import annotations

import sys

import cloudpickle
import comfy.samplers
import comfy.sd
import comfy_extras.nodes_cfg
import comfy_extras.nodes_easycache
import comfy_extras.nodes_model_advanced
import pytest
import torch
from compact_parallel.runtime.attention.errors import Unsupported
from compact_parallel.runtime.job.pickling import ShippingError
from compact_parallel.runtime.pool.errors import JobFailed
from compact_parallel.runtime.report.plot import draw, to_pixels
from compact_parallel.runtime.report.summary import summarize
from sampling import TOLERANCE, ksampler, model, parallel, pool, relative_error, report, sample_with, without_plan

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ARRANGEMENTS = {"all_gather 2": {"ring_degree": 2}, "cfg 2": {"cfg_degree": 2}}


def lora(patcher, strength: float):
    """The MODEL as LoraLoaderModelOnly gives it, with a random LoRA on two layers."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for layer in ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"):
        rows, columns = patcher.model.diffusion_model.get_submodule(layer).weight.shape
        weights[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn((rows, 4), generator=generator) * 0.05
        weights[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn((4, columns), generator=generator) * 0.5
    return comfy.sd.load_lora_for_models(patcher, None, weights, strength, 0)[0]


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
def test_lora_model_sampling_and_rescale_cfg_together(strategy):
    patched = lora(model("flux"), 1.0)
    patched = comfy_extras.nodes_model_advanced.ModelSamplingFlux().patch(patched, 1.15, 0.5, 512, 512)[0]
    patched = comfy_extras.nodes_model_advanced.RescaleCFG().patch(patched, 0.7)[0]
    stock = ksampler(patched, "flux")
    assert relative_error(ksampler(parallel(patched, 2, **strategy), "flux"), stock) < TOLERANCE
    assert relative_error(stock, ksampler(lora(model("flux"), 1.0), "flux")) > 100 * TOLERANCE


def easy_cache(patcher):
    return comfy_extras.nodes_easycache.EasyCacheNode.execute(patcher, 0.5, 0.1, 0.95, False)[0]


@pytest.mark.parametrize("order", ("before", "after"))
@pytest.mark.parametrize("strategy", ({"ring_degree": 2}, {"ulysses_degree": 2}), ids=("all_gather", "ulysses"))
def test_easy_cache_skips_the_same_steps_under_sequence_parallelism(strategy, order):
    steps = {"steps": 12}
    stock = ksampler(easy_cache(model("flux")), "flux", **steps)
    if order == "before":
        patched = parallel(easy_cache(model("flux")), 2, **strategy)
    else:
        patched = easy_cache(parallel(model("flux"), 2, **strategy))
    assert relative_error(ksampler(patched, "flux", **steps), stock) < TOLERANCE
    assert relative_error(stock, ksampler(model("flux"), "flux", **steps)) > TOLERANCE  # it did skip steps


def test_easy_cache_is_refused_under_cfg_parallelism():
    with pytest.raises(Unsupported, match=r"EasyCache decides by the first condition.*set cfg_degree to 1"):
        ksampler(parallel(easy_cache(model("flux")), 2, cfg_degree=2), "flux")


def test_lazy_cache_works_under_cfg_parallelism():
    patched = comfy_extras.nodes_easycache.LazyCacheNode.execute(model("flux"), 0.5, 0.1, 0.95, False)[0]
    stock = ksampler(patched, "flux", steps=12)
    assert relative_error(ksampler(parallel(patched, 2, cfg_degree=2), "flux", steps=12), stock) < TOLERANCE


def test_a_patch_that_evaluates_conditions_itself_is_refused_under_cfg_parallelism():
    patched = model("flux").clone()
    patched.set_model_sampler_calc_cond_batch_function(lambda args: None)
    with pytest.raises(Unsupported, match="set cfg_degree to 1"):
        ksampler(parallel(patched, 2, cfg_degree=2), "flux")


def test_a_closure_over_the_model_itself_travels():
    patched = model("flux").clone()

    def damp(args):
        assert patched.model.model_sampling.sigma_max > 0  # the worker's own model
        return args["denoised"] * (0.9 if patched.model.diffusion_model.num_heads == 2 else 0.0)

    patched.set_model_sampler_post_cfg_function(damp)
    stock = ksampler(patched, "flux")
    assert relative_error(ksampler(parallel(patched, 2, ring_degree=2), "flux"), stock) < TOLERANCE


def test_what_cannot_travel_is_named():
    import threading

    patched = model("flux").clone()
    lock = threading.Lock()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] if lock else None)
    with pytest.raises(ShippingError, match=r"patches and wrappers.*cannot be sent.*lock"):
        ksampler(parallel(patched, 2, ring_degree=2), "flux")


def test_a_loader_without_a_recipe_is_named():
    patched = model("flux").clone()
    patched.cached_patcher_init = None
    with pytest.raises(ShippingError, match=r"Flux .*keeps no recipe.*use ComfyUI's own loader"):
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
        assert to_pixels(draw(report())).shape[2] == 3  # Parallel Report shows it
        assert "one device" in summarize(report()) or "no sequence-parallel plan" in summarize(report())


def test_what_a_guard_refuses_in_the_workers_is_a_sentence_or_runs_on_one_device():
    patched = model("flux").clone()
    patched.set_model_patch(lambda q, k, v, **_: {"q": q, "k": k, "v": v}, "attn1_patch")
    stock = ksampler(patched, "flux")
    starts = pool(2).starts
    with pytest.raises(JobFailed, match=r"set ulysses_degree and ring_degree to 1") as caught:
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
