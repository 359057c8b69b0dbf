"""Models that hang on a model or on its conditions, and hooks that bring weights: all of it reaches the workers."""

from __future__ import annotations

import sys

import cloudpickle
import comfy.hooks
import comfy.model_patcher
import comfy.patcher_extension
import comfy_models
import controls
import psutil
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from sampling import TOLERANCE, ksampler, model, parallel, pool, relative_error

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ARRANGEMENTS = {"all_gather 2": {"ring_degree": 2}, "cfg 2": {"cfg_degree": 2}}
every_arrangement = pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)


class Tint(torch.nn.Module):
    """Adds a learned picture; large enough for the store."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.picture = torch.nn.Parameter(torch.randn((1, 16, 64, 64), generator=generator), requires_grad=False)

    def forward(self, x):
        return x + 0.3 * self.picture[..., : x.shape[-2], : x.shape[-1]]


def tint(seed: int = 0):
    """A patcher of a model that no loader made."""
    return comfy.model_patcher.CoreModelPatcher(Tint(seed), torch.device("cpu"), torch.device("cpu"))


def check(patcher, strategy, positive=None, plain=None):
    """Parallel gives what stock gives, and stock something else than the plain model. Returns stock's picture."""
    stock = ksampler(patcher, "flux", positive=positive)
    samples = ksampler(parallel(patcher, 2, **strategy), "flux", positive=positive)
    assert relative_error(samples, stock) < TOLERANCE
    without = ksampler(model("flux"), "flux") if plain is None else plain
    assert relative_error(stock, without) > 100 * TOLERANCE
    return stock


def with_tint(seed: int):
    """Flux with an additional model, by key, and a wrapper that looks it up."""
    patched = model("flux").clone()
    patched.set_additional_models("tint", [tint(seed)])

    def predict(executor, *args, **kwargs):
        (found,) = executor.class_obj.model_patcher.get_additional_models_with_key("tint")
        return found.model(executor(*args, **kwargs))

    patched.add_wrapper(WrappersMP.PREDICT_NOISE, predict)
    return patched


@every_arrangement
def test_an_additional_model_is_the_one_that_hangs_there_now(strategy):
    first = check(with_tint(0), strategy)
    second = check(with_tint(1), strategy)
    assert relative_error(second, first) > 100 * TOLERANCE


def test_an_additional_model_of_an_additional_model_travels():
    outer, inner = tint(0), tint(1)
    outer.set_additional_models("inner", [inner])
    patched = model("flux").clone()
    patched.set_additional_models("outer", [outer])

    def predict(executor, *args, **kwargs):
        (found,) = executor.class_obj.model_patcher.get_additional_models_with_key("outer")
        (within,) = found.get_additional_models_with_key("inner")
        return within.model(found.model(executor(*args, **kwargs)))

    patched.add_wrapper(WrappersMP.PREDICT_NOISE, predict)
    stock = check(patched, {"ring_degree": 2})
    assert relative_error(stock, ksampler(with_tint(0), "flux")) > 100 * TOLERANCE


def pss() -> int:
    """Bytes of both workers together, a page that they share counted once."""
    return sum(psutil.Process(worker["pid"]).memory_full_info().pss for worker in pool(2).status()["workers"])


def copy_weights(executor, *args, **kwargs):
    """Runs in a worker: what unpickling the values themselves would leave behind."""
    (found,) = executor.class_obj.model_patcher.get_additional_models_with_key("tint")
    found.model.heavy = torch.nn.Parameter(found.model.heavy.clone(), requires_grad=False)
    return executor(*args, **kwargs)


def test_the_weights_of_a_model_without_a_recipe_are_mapped_by_the_workers_not_copied():
    heavy = with_tint(0)
    (extra,) = heavy.get_additional_models_with_key("tint")
    extra.model.heavy = torch.nn.Parameter(torch.randn(1 << 26), requires_grad=False)
    size = extra.model.heavy.nbytes

    def touch(executor, *args, **kwargs):
        (found,) = executor.class_obj.model_patcher.get_additional_models_with_key("tint")
        assert found.model.heavy.sum().isfinite()
        return executor(*args, **kwargs)

    heavy.add_wrapper(WrappersMP.PREDICT_NOISE, touch)
    ksampler(parallel(with_tint(0), 2, ring_degree=2), "flux", steps=1)
    without = pss()
    ksampler(parallel(heavy, 2, ring_degree=2), "flux", steps=1)
    mapped = pss() - without
    copying = parallel(heavy, 2, ring_degree=2)
    copying.add_wrapper(WrappersMP.OUTER_SAMPLE, copy_weights)
    ksampler(copying, "flux", steps=1)
    copied = pss() - without
    pool(2).stop()
    assert 0.9 * size < mapped < 1.25 * size
    assert copied > 1.75 * size  # the measure sees a second copy where there is one


class TintTokens:
    """A patch that holds a model of its own, as ComfyUI's model patches (DiffSynth, USO) do."""

    def __init__(self, patcher):
        self.patcher = patcher

    def __call__(self, args):
        flat = self.patcher.model.picture.flatten()
        args["img"] = args["img"] + 0.3 * flat[: args["img"].shape[-1]]
        return args

    def models(self):
        return [self.patcher]


@every_arrangement
def test_a_patch_with_a_model_of_its_own(strategy):
    patched = model("flux").clone()
    patched.set_model_post_input_patch(TintTokens(tint(2)))
    check(patched, strategy)


def test_a_model_that_a_closure_holds_beside_its_module():
    patcher = tint(3)
    module = patcher.model
    patched = model("flux").clone()

    def post_cfg(args):
        assert patcher.model is module  # not two copies
        return module(args["denoised"])

    patched.set_model_sampler_post_cfg_function(post_cfg)
    check(patched, {"ring_degree": 2})


@every_arrangement
def test_models_and_options_that_a_hook_brings_to_a_condition(strategy):
    patcher = tint(4)
    options = {"wrappers": {WrappersMP.APPLY_MODEL: {"tint": [lambda run, x, *a, **k: patcher.model(run(x, *a, **k))]}}}
    hook = comfy.hooks.TransformerOptionsHook(transformers_dict=options)
    models = comfy.hooks.AdditionalModelsHook(models=[patcher])
    group = comfy.hooks.HookGroup()
    for one in (hook, models):
        group.add(one)
    positive = comfy.hooks.set_hooks_for_conditioning(comfy_models.conditioning(1), group)
    check(model("flux"), strategy, positive)


@every_arrangement
def test_weights_of_another_checkpoint_as_a_hook_with_keyframes(strategy):
    weights = {
        name: 1.1 * value for name, value in model("flux").model.diffusion_model.state_dict().items() if "proj" in name
    }
    hook = comfy.hooks.create_hook_model_as_lora(
        {f"diffusion_model.{name}": value for name, value in weights.items()}, None, 1.0, 0.0
    )
    schedule = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.5, 0.4), (0.0, 0.8)):
        schedule.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
    hook.set_keyframes_on_hooks(schedule)
    positive = comfy.hooks.set_hooks_for_conditioning(comfy_models.conditioning(1), hook)
    check(model("flux"), strategy, positive)
    assert (
        relative_error(ksampler(parallel(model("flux"), 2, **strategy), "flux"), ksampler(model("flux"), "flux"))
        < TOLERANCE
    )


@every_arrangement
def test_a_lora_hook_that_a_controlnet_brings(strategy):
    generator = torch.Generator().manual_seed(3)
    layer = "diffusion_model.double_blocks.0.img_attn.qkv"
    weights = {
        f"{layer}.lora_up.weight": torch.randn((768, 4), generator=generator) * 0.1,
        f"{layer}.lora_down.weight": torch.randn((4, 256), generator=generator) * 0.5,
    }
    positive, _ = controls.steered((controls.flux_xlabs(), 1.0, 0.0, 1.0))
    only_control = ksampler(model("flux"), "flux", positive=positive)
    positive[0][1]["control"].extra_hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    check(model("flux"), strategy, positive, plain=only_control)
