"""Samples stock workflows on tiny models with ComfyUI's own nodes, in this process and on pools of real workers."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_models
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.comfy.run.outer_sample import ParallelSampling, pool_for
from compact_parallel.runtime.config import (
    CompressionConfig,
    ParallelConfig,
    PoolConfig,
    StepReuseConfig,
    StrategyConfig,
)
from compact_parallel.runtime.report.history import runs
from device import EXACT, devices

import nodes as stock

TOLERANCE = EXACT
SEED = 5
# Strategies, {name: (workers, degrees)}. With "step 2" no guess is accepted, so that it is exact.
NOTHING_PASSES = StepReuseConfig(mode="look_ahead", look_ahead=2, warmup_calls=1, tolerance=1e-9)
WAYS = {
    "all_gather 2": (2, {"ring_degree": 2}),
    "ulysses 2": (2, {"ulysses_degree": 2}),
    "all_gather 3": (3, {"ring_degree": 3}),
    "cfg 2": (2, {"cfg_degree": 2}),
    "step 2": (2, {"step_degree": 2, "step_reuse": NOTHING_PASSES}),
    "data 2": (2, {"data_degree": 2}),
}
_FOLDER = tempfile.TemporaryDirectory(prefix="compact-parallel-tests-")  # removed when this process ends


@functools.cache
def model_path(family: str) -> str:
    """A model file of the family, written once per test session."""
    return comfy_models.save(family, Path(_FOLDER.name) / f"{family}.safetensors")


@functools.cache
def model(family: str):
    """The MODEL from UNETLoader's loader function."""
    return comfy_models.load(model_path(family))


def config(world: int, compression: CompressionConfig | None = None, **strategy) -> ParallelConfig:
    """The configuration of a run on the pool of `world` workers that all tests share."""
    return ParallelConfig(
        pool=PoolConfig(devices=",".join(devices(world)), name=f"test-{world}"),
        strategy=StrategyConfig(mode="manual", **strategy) if strategy else StrategyConfig(),
        compression=compression or CompressionConfig(mode="off"),
    )


def pool(world: int):
    """The shared pool of `world` workers."""
    return pool_for(config(world), devices(world))


def parallel(
    patcher,
    world: int,
    compression: CompressionConfig | None = None,
    on_unsupported="error",
    step_reuse: StepReuseConfig | None = None,
    self_check: bool = False,
    **strategy,
):
    """The MODEL with the wrapper that the Parallel Model node adds."""
    chosen = config(world, compression, **strategy)
    reuse = step_reuse or StepReuseConfig()
    chosen = ParallelConfig(chosen.pool, chosen.strategy, chosen.compression, on_unsupported, reuse, self_check)
    clone = patcher.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "compact_parallel", ParallelSampling(chosen))
    return clone


def relative_error(x: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference divided by the largest expected value; the tensors may be on different devices."""
    return float((x.cpu() - expected.cpu()).abs().max() / expected.abs().max())


@contextlib.contextmanager
def without_plan(patcher):
    """While active, the model has a class without a plan."""
    module = patcher.model.diffusion_model
    known = type(module)
    module.__class__ = type("Unheard", (known,), {})
    try:
        yield
    finally:
        module.__class__ = known


def report() -> dict:
    """The report of the newest run."""
    return runs().latest()


@torch.inference_mode()
def ksampler(
    patcher,
    family: str,
    sampler="euler",
    *,
    steps=4,
    cfg=3.0,
    batch=1,
    latent=None,
    denoise=1.0,
    positive=None,
    negative=None,
):
    """The samples of KSampler."""
    latent = latent or {"samples": comfy_models.latent(family, batch)}
    positive, negative = positive or comfy_models.conditioning(1), negative or comfy_models.conditioning(2)
    out = stock.KSampler().sample(
        patcher, SEED, steps, cfg, sampler, "simple", positive, negative, latent, denoise=denoise
    )
    return out[0]["samples"]


def masked_image(family: str) -> dict:
    """A latent with content and a noise mask over a part of it."""
    samples = torch.randn(comfy_models.latent(family).shape, generator=torch.Generator().manual_seed(7))
    mask = torch.zeros((1, 1, *samples.shape[-2:]))
    mask[..., : samples.shape[-2] // 2, :] = 1
    return {"samples": samples, "noise_mask": mask}


@torch.inference_mode()
def img2img(patcher, family: str):
    """KSampler on a masked image at denoise 0.6."""
    return ksampler(patcher, family, latent=masked_image(family), denoise=0.6, steps=5)


@torch.inference_mode()
def advanced(patcher, family: str):
    """KSamplerAdvanced over steps 1 to 4 of 6, with leftover noise."""
    latent = {"samples": comfy_models.latent(family)}
    positive, negative = comfy_models.conditioning(1), comfy_models.conditioning(2)
    out = stock.KSamplerAdvanced().sample(
        patcher, "enable", SEED, 6, 3.0, "euler", "simple", positive, negative, latent, 1, 4, "enable"
    )
    return out[0]["samples"]


@torch.inference_mode()
def custom_advanced(patcher, family: str, guider: str, output=0):
    """SamplerCustomAdvanced with one of the stock guiders; output 1 is `denoised_output`."""
    positive, middle, negative = (comfy_models.conditioning(seed) for seed in (1, 3, 2))
    guiders = {
        "basic": lambda: custom.BasicGuider.execute(patcher, positive),
        "cfg": lambda: custom.CFGGuider.execute(patcher, positive, negative, 3.0),
        "dual_cfg": lambda: custom.DualCFGGuider.execute(patcher, positive, middle, negative, 3.0, 2.0, "regular"),
    }
    result = custom.SamplerCustomAdvanced.execute(
        custom.RandomNoise.execute(SEED)[0],
        guiders[guider]()[0],
        custom.KSamplerSelect.execute("euler")[0],
        custom.BasicScheduler.execute(patcher, "simple", 4, 1.0)[0],
        {"samples": comfy_models.latent(family)},
    )
    return result[output]["samples"]


@torch.inference_mode()
def sample_with(patcher, sampler, steps=4, batch=1, sigmas=None):
    """The samples of a CFGGuider with this sampler, on `sigmas` or on the schedule "simple" with `steps` steps."""
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(comfy_models.conditioning(1), comfy_models.conditioning(2))
    guider.set_cfg(3.0)
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", steps)
    latent = comfy_models.latent("flux", batch)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    return guider.sample(noise, latent, sampler, sigmas, seed=1)


WORKFLOWS = {
    "euler": ksampler,
    "dpmpp_2m": functools.partial(ksampler, sampler="dpmpp_2m"),
    "dpmpp_2m_sde": functools.partial(ksampler, sampler="dpmpp_2m_sde"),
    "heun": functools.partial(ksampler, sampler="heun"),
    "cfg_1": functools.partial(ksampler, cfg=1.0),
    "batch_2": functools.partial(ksampler, batch=2),
    "img2img_mask": img2img,
    "advanced_start_end": advanced,
    "basic_guider": functools.partial(custom_advanced, guider="basic"),
    "cfg_guider": functools.partial(custom_advanced, guider="cfg"),
    "dual_cfg_guider": functools.partial(custom_advanced, guider="dual_cfg"),
    "denoised_output": functools.partial(custom_advanced, guider="cfg", output=1),
}


@functools.cache
def expected(family: str, workflow: str) -> torch.Tensor:
    """The samples of stock ComfyUI, in this process on one thread."""
    torch.set_num_threads(1)
    return WORKFLOWS[workflow](model(family), family)
