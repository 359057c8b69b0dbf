"""What a worker sends after each step of a pipeline: figures for the panel, and a latent for the preview."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor


def progress_payload(figures: Mapping[str, Any], shown: tuple[str, Tensor] | None) -> bytes:
    """What is sent after a step: figures for the panel, and a latent for the preview with the name of its format."""
    told = {**figures, "format": shown[0] if shown else ""}
    tensors = {"json": torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)}
    if shown:
        tensors["x0"] = shown[1][:1].float().cpu().contiguous()
    return safetensors.torch.save(tensors)


def read_progress(payload: bytes) -> tuple[dict[str, Any], str, Tensor | None]:
    """(the figures, the name of the latent's format, the latent) of a payload."""
    tensors = safetensors.torch.load(payload)
    told = json.loads(tensors["json"].numpy().tobytes())
    return told, told.pop("format"), tensors.get("x0")
