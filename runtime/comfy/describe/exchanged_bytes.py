"""Estimates the bytes of the keys and values that the layers of a model exchange in a call with one batch entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

TEXT_TOKENS = 512
"""Text tokens beside those of the picture, as many as the usual text encoders make."""


def of_tokens(scopes: Sequence[torch.nn.Module], model: Any, noise: torch.Tensor) -> int | None:
    """Of a transformer `model` (a comfy.model_base.BaseModel) whose attention is in these modules; None if unknown.

    Each is taken to have keys and values of all tokens at the model's width: the smaller side of its widest weight.
    """
    widths = [max((min(w.shape) for w in scope.parameters() if w.ndim == 2), default=0) for scope in scopes]
    if not all(widths):
        return None
    patch = getattr(model.diffusion_model, "patch_size", 1)
    positions = patch**2 if isinstance(patch, int) else math.prod(patch)
    tokens = math.prod(noise.shape[2:]) // positions + TEXT_TOKENS
    return 2 * tokens * sum(widths) * model.get_dtype_inference().itemsize


def of_rows(model: Any, noise: torch.Tensor) -> int | None:
    """Of a UNet; None if it does not tell its channels. Each doubling of the channels halves height and width."""
    channels = getattr(model.diffusion_model, "model_channels", None)
    if channels is None:
        return None
    attention = (m.attn1.to_k for m in model.diffusion_model.modules() if hasattr(getattr(m, "attn1", None), "to_k"))
    widths = [layer.weight.shape[0] for layer in attention]
    values = sum(width / 4 ** round(math.log2(max(1, width / channels))) for width in widths)
    return 2 * int(values * math.prod(noise.shape[2:])) * model.get_dtype_inference().itemsize
