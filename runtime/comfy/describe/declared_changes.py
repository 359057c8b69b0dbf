"""Lists the parts of a diffusion model that a workflow declares to change: object patches and injections."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

# ComfyUI's own injection, which adds to the outputs of linear layers and convolutions, row by row.
_BYPASS_LORA = "bypass_lora"
_MODEL = "diffusion_model."


def object_patches(patcher: Any) -> list[str]:
    """The paths of a diffusion model's modules and functions that are replaced, such as "diffusion_model.out.forward".

    Compiled modules, which compute the same as the original, and values that are no code are left out.
    """
    return [
        path
        for path, patch in patcher.object_patches.items()
        if path.startswith(_MODEL) and callable(patch) and not isinstance(patch, OptimizedModule | nn.Parameter)
    ]


def injections(patcher: Any) -> list[str]:
    """The names of injections, which add code such as motion modules to the model during a run; without bypass LoRA."""
    return [name for name in patcher.injections if name != _BYPASS_LORA]


def replaced_modules(patcher: Any) -> tuple[str, ...]:
    """The paths within the diffusion model of the modules that object patches replace or change in part."""
    paths = {path for path, _ in patcher.model.diffusion_model.named_modules()}
    found = set()
    for patch in object_patches(patcher):
        path = patch.removeprefix(_MODEL)
        while path not in paths:
            path = path.rpartition(".")[0]
        found.add(path)
    return tuple(sorted(found))
