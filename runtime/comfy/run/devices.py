"""Resolves a config to one device per worker."""

from __future__ import annotations

import os
import sys

import comfy.cli_args
import comfy.model_management
import torch
import torch.distributed

from ...config import ConfigError, ParallelConfig
from ...planner.auto_devices import Card, Machine, auto_devices
from ...pool.rendezvous import has_nccl

ONE_CARD = (
    "On Windows ComfyUI shows itself only the first card (CUDA_VISIBLE_DEVICES is 0) unless it is started with "
    "--cuda-device all."
)
ROCM = "AMD cards (ROCm) were never tried with this pack: please report what you see."
NAMES = {"privateuseone": "DirectML"}


def hidden_cards() -> str:
    """A sentence if ComfyUI has hidden all cards but one from itself, as it does on Windows after 0.30; else empty.

    It then sets CUDA_VISIBLE_DEVICES if no option says which cards to use.
    """
    options = ("cuda_device", "default_device")
    told = any(getattr(comfy.cli_args.args, option, None) is not None for option in options)
    hidden = sys.platform == "win32" and not told and os.environ.get("CUDA_VISIBLE_DEVICES") == "0"
    return ONE_CARD if hidden and not comfy.model_management.cpu_mode() else ""


def this_machine() -> Machine:
    """The devices that ComfyUI may use: no cards if it was told to use the CPU (--cpu)."""
    talks = torch.distributed.is_available()
    if comfy.model_management.cpu_mode():
        return Machine(talks=talks)
    kind = comfy.model_management.get_torch_device().type
    if kind not in ("cpu", "cuda"):
        return Machine(other=NAMES.get(kind, kind), talks=talks)
    cards = tuple(_card(index) for index in range(torch.cuda.device_count()))
    return Machine(cards, talks=talks, rocm=torch.version.hip is not None)


def _card(index: int) -> Card:
    about = torch.cuda.get_device_properties(index)
    return Card(index, about.name, about.total_memory, about.major, bool(about.is_integrated))


def devices_of(config: ParallelConfig) -> tuple[str, ...]:
    """One device per worker on this machine.

    Raises ConfigError for a device that is not there, a wrong backend, or several workers that could not talk.
    """
    machine = this_machine()
    auto, left_out = auto_devices(machine)
    try:
        devices = config.pool.worker_devices(len(machine.cards), auto)
    except ConfigError as error:
        raise ConfigError(f"{error} {hidden_cards()}".rstrip()) from error
    if len(devices) > 1 and not machine.talks:
        raise ConfigError(f"devices names {len(devices)} workers; name one device or auto. {left_out}")
    config.pool.resolve_backend(devices, has_nccl())
    return devices


def remarks(config: ParallelConfig) -> tuple[str, ...]:
    """Sentences for the report of a run on these devices: what auto left out, and what nobody has tried."""
    machine = this_machine()
    left_out = auto_devices(machine)[1] if config.pool.auto else ""
    devices = devices_of(config)
    untried = ROCM if machine.rocm and len(devices) > 1 and set(devices) != {"cpu"} else ""
    return tuple(filter(None, (left_out, untried)))
