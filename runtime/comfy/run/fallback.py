"""For the fallback to one device (see outer_sample.py): whether a run trains, and an error as a line of the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import torch

from ...attention.unsupported import Unsupported
from ...config import ConfigError
from ...pool.errors import JobFailed, PoolError
from ..shipping.pickling import ShippingError

TRAINING = (
    "This run trains: it needs gradients, which workers cannot give back, so ComfyUI does it as always on one device."
)


def needs_gradients(guider: Any, arguments: Any) -> bool:
    """Whether the run trains, as Train LoRA does: gradients exist in this process only."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return False
    return (
        comfy.model_management.in_training
        or guider.model_patcher.model.diffusion_model.training
        or any(isinstance(part, torch.optim.Optimizer) for part in getattr(arguments.sampler, "__dict__", {}).values())
        or any(tensor.requires_grad for tensor in _tensors((arguments.noise, arguments.latent_image, guider.conds)))
    )


def told(error: Exception) -> str:
    """A line for the report that says what went wrong; the log has the rest."""
    cause = error.cause if isinstance(error, JobFailed) else str(error)
    line = cause.strip().partition("\n")[0]
    if isinstance(error, JobFailed):
        return line if error.for_people else f"The workers failed ({error.kind}: {line})."
    if isinstance(error, Unsupported | ConfigError | ShippingError | PoolError | OSError):
        return line
    return f"The run could not be given to the workers ({type(error).__name__}: {line})."


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for part in value.values() for tensor in _tensors(part))
    elif isinstance(value, list | tuple):
        yield from (tensor for part in value for tensor in _tensors(part))
