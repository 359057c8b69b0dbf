"""Two models of one file stay two in the workers: what a workflow hangs on one of them is not on the other."""

from __future__ import annotations

import functools
import gc
import sys

import cloudpickle
import comfy.model_base
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as advanced
import comfy_models
import controls
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from sampling import SEED, TOLERANCE, ksampler, model, model_path, parallel, pool, relative_error, sample_with

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ARRANGEMENTS = {"all_gather 2": {"ring_degree": 2}, "auto 2": {}}


@functools.cache
def twin():
    """The MODEL of a second UNETLoader with the file of the first."""
    return comfy_models.load(model_path("flux"))


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """ComfyUI's patchers are not to live until the interpreter ends."""
    yield
    twin.cache_clear()


def with_lora(patcher, strength=1.0):
    return comfy.sd.load_lora_for_models(patcher, None, comfy_models.lora_weights(patcher), strength, 0)[0]


def with_sampling(patcher):
    return advanced.ModelSamplingDiscrete().patch(patcher, "v_prediction", False)[0]


@torch.inference_mode()
def dual(positive, negative, steps=4):
    """SamplerCustomAdvanced with DualModelGuider, CFG 4."""
    guider = custom.DualModelGuider.execute(
        positive, comfy_models.conditioning(1), 4.0, negative, comfy_models.conditioning(2)
    )[0]
    result = custom.SamplerCustomAdvanced.execute(
        custom.RandomNoise.execute(SEED)[0],
        guider,
        custom.KSamplerSelect.execute("euler")[0],
        custom.BasicScheduler.execute(model("flux"), "simple", steps, 1.0)[0],
        {"samples": comfy_models.latent("flux")},
    )
    return result[0]["samples"]


PAIRS = {
    "a LoRA on the second": lambda: (model("flux"), with_lora(twin())),
    "a LoRA on the first": lambda: (with_lora(model("flux")), twin()),
    "a LoRA on each": lambda: (with_lora(model("flux")), with_lora(twin(), -0.5)),
    "another model sampling on the second": lambda: (model("flux"), with_sampling(twin())),
}


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_one_of_two_carries_is_on_that_one(pair, strategy):
    first, second = PAIRS[pair]()
    expected = dual(first, second)
    assert relative_error(dual(model("flux"), twin()), expected) > 100 * TOLERANCE
    assert relative_error(dual(parallel(first, 2, **strategy), second), expected) < TOLERANCE


def test_another_precision_of_the_same_file():
    half = comfy.sd.load_diffusion_model(model_path("flux"), model_options={"dtype": torch.float8_e4m3fn})
    expected = dual(model("flux"), half)
    assert relative_error(dual(model("flux"), twin()), expected) > 100 * TOLERANCE
    assert relative_error(dual(parallel(model("flux"), 2, ring_degree=2), half), expected) < TOLERANCE


def by_a_patch(patcher, other):
    """A post-CFG patch that adds something of the output of another model, whose patches it applies."""

    def add(args):
        seen = other_prediction(other, args["input"], args["sigma"])
        return args["denoised"] + 0.3 * seen

    patched = patcher.clone()
    patched.set_model_sampler_post_cfg_function(add)
    return patched


def other_prediction(other, x, sigma):
    comfy.model_management.load_models_gpu([other])
    context, pooled = comfy_models_text()
    return other.model.apply_model(x, sigma, c_crossattn=context, y=pooled)


def comfy_models_text():
    generator = torch.Generator().manual_seed(9)
    return torch.randn((1, 7, 48), generator=generator), torch.randn((1, 32), generator=generator)


def asking(wrapped, x, sigmas, extra_args=None, callback=None, disable=None, other=None):
    """Euler, led by a second model that comes with the sampler."""
    for step in range(len(sigmas) - 1):
        level = sigmas[step] * x.new_ones([x.shape[0]])
        denoised = wrapped(x, level, **extra_args) + 0.3 * other_prediction(other, x, level)
        x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
    return x


def by_the_sampler(patcher, other):
    sampler = comfy.samplers.KSAMPLER(asking, extra_options={"other": other})
    return sample_with(patcher, sampler)


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_a_model_within_a_patch(strategy):
    expected = ksampler(by_a_patch(model("flux"), with_lora(twin())), "flux")
    assert relative_error(ksampler(by_a_patch(model("flux"), twin()), "flux"), expected) > 100 * TOLERANCE
    patched = parallel(by_a_patch(model("flux"), with_lora(twin())), 2, **strategy)
    assert relative_error(ksampler(patched, "flux"), expected) < TOLERANCE


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_a_model_within_a_sampler(strategy):
    expected = by_the_sampler(model("flux"), with_lora(twin()))
    assert relative_error(by_the_sampler(model("flux"), twin()), expected) > 100 * TOLERANCE
    samples = by_the_sampler(parallel(model("flux"), 2, **strategy), with_lora(twin()))
    assert relative_error(samples, expected) < TOLERANCE


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_a_controlnet_of_the_same_file_twice_with_a_patch_on_one(strategy):
    plain, first, second = (controls.flux_xlabs() for _ in range(3))
    twice = controls.steered((plain, 0.7, 0.0, 1.0), (plain, 0.7, 0.0, 1.0))
    before = ksampler(model("flux"), "flux", positive=twice[0], negative=twice[1])
    name, weight = next(
        (name, weight)
        for name, weight in second.control_model_wrapped.model.state_dict().items()
        if name.endswith("controlnet_blocks.0.weight")
    )
    second.control_model_wrapped.add_patches({name: (-0.5 * weight,)})
    positive, negative = controls.steered((first, 0.7, 0.0, 1.0), (second, 0.7, 0.0, 1.0))
    expected = ksampler(model("flux"), "flux", positive=positive, negative=negative)
    assert relative_error(before, expected) > 100 * TOLERANCE
    steered = ksampler(parallel(model("flux"), 2, **strategy), "flux", positive=positive, negative=negative)
    assert relative_error(steered, expected) < TOLERANCE


def counting(patcher, counts):
    """The MODEL with a wrapper that counts, in worker 0, the models that are alive there."""

    def count(executor, *args, **kwargs):
        gc.collect()
        counts.append(sum(issubclass(type(obj), comfy.model_base.BaseModel) for obj in gc.get_objects()))
        return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "counting", count)
    return patcher


def test_models_are_kept_for_the_next_job_and_no_more_are_made():
    counts = []

    def job(number):
        order = (model("flux"), with_lora(twin())) if number % 2 else (twin(), with_lora(model("flux")))
        return dual(counting(parallel(order[0], 2, ring_degree=2), counts), order[1], steps=1)

    pictures = [job(0)]
    starts = pool(2).starts
    pictures += [job(number) for number in range(1, 10)]
    assert len(counts) == 10 and len(set(counts[2:])) == 1 and counts[-1] in (2, 3)  # one may be of a job before
    assert all(relative_error(picture, pictures[0]) < TOLERANCE for picture in pictures)
    assert pool(2).starts == starts
