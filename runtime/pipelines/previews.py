"""The latents of a pipeline in the layout of ComfyUI's previewers, where their format is known.

B batch, C channels, T frames, H and W latent rows and columns, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .running import StepCall
from .steps.noise import denoised_of

Layout = Callable[[Tensor, Any, Mapping[str, Any]], Tensor]


def _as_is(latent: Tensor, pipe: Any, arguments: Mapping[str, Any]) -> Tensor:
    return latent


def _frames_second(latent: Tensor, pipe: Any, arguments: Mapping[str, Any]) -> Tensor:
    return latent.transpose(1, 2)


def _packed(latent: Tensor, pipe: Any, arguments: Mapping[str, Any]) -> Tensor:
    """(B, H/2 W/2, 4 C) as (B, C, H, W)."""
    default = pipe.default_sample_size * pipe.vae_scale_factor
    height = 2 * (int(arguments.get("height") or default) // (pipe.vae_scale_factor * 2))
    batch, tokens, channels = latent.shape
    grid = latent.view(batch, height // 2, tokens // (height // 2), channels // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


FORMATS: dict[str, tuple[str, Layout]] = {
    "FluxPipeline": ("Flux", _packed),
    "StableDiffusion3Pipeline": ("SD3", _as_is),
    "PixArtSigmaPipeline": ("SDXL", _as_is),
    "PixArtAlphaPipeline": ("SD15", _as_is),
    "StableDiffusionPipeline": ("SD15", _as_is),
    "StableDiffusionXLPipeline": ("SDXL", _as_is),
    "StableVideoDiffusionPipeline": ("SD15", _frames_second),
    "LattePipeline": ("SD15", _as_is),
    "WanPipeline": ("Wan21", _as_is),
    "WanImageToVideoPipeline": ("Wan21", _as_is),
    "QwenImagePipeline": ("Wan21", _packed),
}
"""By the pipeline's class: the class of comfy.latent_formats, and how its latents become (B, C, H, W) or (B, C, T, H,
W)."""


def preview_of(
    pipe: Any, step: StepCall, prediction: Tensor, arguments: Mapping[str, Any]
) -> tuple[str, Tensor] | None:
    """The name of the latents' format and the denoised latent of a step; None where one of them is not known."""
    known = FORMATS.get(type(pipe).__name__)
    denoised = denoised_of(step.scheduler, step.timestep, step.sample, prediction) if known else None
    if denoised is None:
        return None
    name, layout = known
    return name, layout(denoised, pipe, arguments)
