"""Resolves a config to one device per worker."""

from __future__ import annotations

import os
import sys

import comfy.cli_args
import comfy.model_management
import torch

from ...config import ConfigError, ParallelConfig
from ...pool.rendezvous import has_nccl

ONE_CARD = (
    "On Windows ComfyUI shows itself only the first card (CUDA_VISIBLE_DEVICES is 0) unless it is started with "
    "--cuda-device all."
)


def hidden_cards() -> str:
    """A sentence if ComfyUI has hidden all cards but one from itself, as it does on Windows after 0.30; else empty.

    It then sets CUDA_VISIBLE_DEVICES if no option says which cards to use.
    """
    options = ("cuda_device", "default_device")
    told = any(getattr(comfy.cli_args.args, option, None) is not None for option in options)
    hidden = sys.platform == "win32" and not told and os.environ.get("CUDA_VISIBLE_DEVICES") == "0"
    return ONE_CARD if hidden and not comfy.model_management.cpu_mode() else ""


def devices_of(config: ParallelConfig) -> tuple[str, ...]:
    """One device per worker on this machine. Raises ConfigError for a device that is not there, or a wrong backend.

    A ComfyUI that was told to use the CPU (--cpu) has no CUDA devices.
    """
    try:
        devices = config.pool.worker_devices(0 if comfy.model_management.cpu_mode() else torch.cuda.device_count())
    except ConfigError as error:
        raise ConfigError(f"{error} {hidden_cards()}".rstrip()) from error
    config.pool.resolve_backend(devices, has_nccl())
    return devices
