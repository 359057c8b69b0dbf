"""What building a tiny diffusion module of ComfyUI needs. Needs COMFYUI_PATH."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from device import DEVICE

HEADS = 6
needs_comfyui = pytest.mark.skipif(
    not (Path(os.environ.get("COMFYUI_PATH", "")) / "comfy").is_dir(), reason="COMFYUI_PATH does not name a ComfyUI"
)


def use_comfyui():
    """Puts ComfyUI on the path, on the device of the tests."""
    folder = os.environ["COMFYUI_PATH"]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from comfy.cli_args import args

    args.cpu = DEVICE == "cpu"


def with_weights(module):
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        scale = 1.5 * parameter.shape[1] ** -0.5 if parameter.ndim > 1 else 0.3
        # In place, because some families are large even when tiny.
        parameter.data = torch.empty(parameter.shape).normal_(generator=generator).mul_(scale)
        if parameter.ndim == 1:
            parameter.data += 1
    return module.eval().requires_grad_(False)


def build(path, **arguments):
    """The module of this class, "module.Class", on the CPU at float32."""
    use_comfyui()
    import comfy.ops

    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    return with_weights(kind(dtype=torch.float32, operations=comfy.ops.disable_weight_init, **arguments))


def randn(*shape, seed=3):
    """The same numbers for the same shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Afresh(dict):
    """A ControlNet's residuals; the model takes them out of their lists, and is given new lists by each forward."""

    def get(self, name, default=None):
        return list(super().get(name, default))

    def items(self):
        return [(name, list(residuals)) for name, residuals in super().items()]
