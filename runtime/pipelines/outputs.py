"""Turns what a pipeline returns into pictures, frames or sound as ComfyUI has them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from .frame_rates import frames_per_second
from .inputs import result_kind
from .job import PipelineResult

LATENT = "latent"


def output_type(pipe: Any, *, wanted: bool) -> dict[str, str]:
    """The argument that makes a pipeline return tensors, or its latents where the result is not wanted."""
    if "output_type" not in inspect.signature(type(pipe).__call__).parameters:
        return {}
    return {"output_type": "pt" if wanted else LATENT}


def result_of(pipe: Any, output: Any, asked_rate: float) -> PipelineResult:
    """The result in a pipeline's `output`; `asked_rate`: the frames per second that it was asked for, or 0."""
    kind = result_kind(type(pipe))
    values = torch.as_tensor(first_of(output)).float()
    if kind == "audio":
        return PipelineResult(kind, _sound(values), _samples_per_second(pipe))
    frames = values.flatten(0, -4)  # (B, C, H, W), or (B, F, C, H, W) of a video
    rate = frames_per_second(type(pipe).__name__, asked_rate) if kind == "video" else 0.0
    return PipelineResult(kind, frames.movedim(1, -1).clamp(0, 1), rate)


def first_of(output: Any) -> Any:
    """The result in a tuple or an output class; a list of tensors becomes one."""
    first = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return torch.stack([torch.as_tensor(one) for one in first]) if isinstance(first, list) else first


def _sound(values: Tensor) -> Tensor:
    """(B, T) or (B, C, T) as (B, C, T)."""
    return values[:, None] if values.ndim == 2 else values


def _samples_per_second(pipe: Any) -> float:
    vocoder, vae = getattr(pipe, "vocoder", None), getattr(pipe, "vae", None)
    rate = getattr(getattr(vocoder, "config", None), "sampling_rate", None) or getattr(vae, "sampling_rate", None)
    return float(rate or 0)
