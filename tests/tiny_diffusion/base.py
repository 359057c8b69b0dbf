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
TIMES = torch.tensor([0.3, 0.8])
TEXT_MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
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


def inputs(family, text=7, height=10, width=6, batch=2):
    """Keyword arguments of one forward. Flux and SD3: (height / 2) (width / 2) tokens; Wan: three frames of them."""
    generator = torch.Generator().manual_seed(text)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    given = {"timestep": torch.rand(batch, generator=generator), "context": randn(batch, text, 20)}
    if family == "wan":
        return {"x": randn(batch, 4, 3, height, width), **given}
    given |= {"x": randn(batch, 4, height, width), "y": randn(batch, 16)}
    if family == "sd3":
        given["timesteps"] = given.pop("timestep")
    return given | ({"guidance": torch.full((batch,), 3.5)} if family == "flux" else {})
