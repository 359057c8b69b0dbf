"""A ModelPatcher travels as a recipe (how its loader made it) and a delta (what the workflow changed since)."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import cloudpickle
import comfy.model_base
import comfy.model_patcher
import torch

from .pickling import JobPickler, JobUnpickler, ShippingError

# What belongs to a patcher in its own process: the module, where it lies, and what is applied to it just now.
_OWN = {
    "model",
    "load_device",
    "offload_device",
    "size",
    "backup",
    "backup_buffers",
    "object_patches_backup",
    "pinned",
    "parent",
    "cached_patcher_init",
    "hook_backup",
    "cached_hook_patches",
    "current_hooks",
    "is_injected",
    "skip_injection",
    "non_dynamic_delegate_model",
}


def describe(patcher: comfy.model_patcher.ModelPatcher) -> str:
    """What to call a model in a message."""
    return f"{type(patcher.model).__name__} ({type(patcher).__name__})"


def recipe_of(patcher: comfy.model_patcher.ModelPatcher) -> bytes:
    """The call that makes the model again, with the age of the files it names, so that a replaced file is reloaded.

    Raises ShippingError for a model whose loader left no recipe.
    """
    if patcher.cached_patcher_init is None:
        raise ShippingError(
            f"{describe(patcher)} was made by a loader that keeps no recipe (cached_patcher_init), so the workers "
            "cannot load it; use ComfyUI's own loader for it, bypass the node that brings it in, or set on_unsupported "
            'of Parallel Model to "run on one device".'
        )
    factory, arguments, *index = patcher.cached_patcher_init
    files = [(a, os.stat(a).st_mtime_ns) for a in arguments if isinstance(a, str) and os.path.isfile(a)]
    return cloudpickle.dumps((factory, arguments, index, files))


def cook(recipe: bytes) -> comfy.model_patcher.ModelPatcher:
    """Make a model from its recipe, with weights that are mapped from the file, not copied."""
    factory, arguments, index, _files = pickle.loads(recipe)
    with mapped_weights():
        made = factory(*arguments)
    return made[index[0]] if index else made


def write_delta(patcher: comfy.model_patcher.ModelPatcher, pickler: JobPickler) -> None:
    """Write all that the workflow hung on the patcher, one piece per attribute so that an error names the attribute."""
    kept = {name: value for name, value in vars(patcher).items() if name not in _OWN}
    pickler.write(list(kept), describe(patcher))
    for name, value in kept.items():
        pickler.write(value, f"{name.replace('_', ' ').capitalize()} of {describe(patcher)}")


def read_delta(patcher: comfy.model_patcher.ModelPatcher, unpickler: JobUnpickler) -> None:
    """Give a worker's clone what `write_delta` wrote of the parent's patcher."""
    for name in unpickler.read():
        setattr(patcher, name, unpickler.read())


@contextmanager
def mapped_weights() -> Iterator[None]:
    """While active, a diffusion model takes over the tensors of its state dict instead of copying their values.

    Tensors read from a safetensors file are mappings of it, so all workers share one copy in the page cache. A tensor
    whose dtype is not the model's is cast, as copying would.
    """
    load_model_weights = comfy.model_base.BaseModel.load_model_weights

    def load_by_assigning(model: comfy.model_base.BaseModel, *args: Any, **kwargs: Any) -> Any:
        module = model.diffusion_model
        module.load_state_dict = partial(_assign_state_dict, module)
        try:
            return load_model_weights(model, *args, **kwargs)
        finally:
            del module.load_state_dict

    comfy.model_base.BaseModel.load_model_weights = load_by_assigning
    try:
        yield
    finally:
        comfy.model_base.BaseModel.load_model_weights = load_model_weights


def _assign_state_dict(module: torch.nn.Module, state_dict: dict, strict: bool = True, assign: bool = True) -> Any:
    own = module.state_dict()
    cast = {name: _as_dtype_of(own.get(name), tensor) for name, tensor in state_dict.items()}
    return type(module).load_state_dict(module, cast, strict=strict, assign=True)


def _as_dtype_of(target: Any, tensor: Any) -> Any:
    both_plain = type(tensor) is torch.Tensor and isinstance(target, torch.Tensor)
    if both_plain and target.is_floating_point() and tensor.is_floating_point():
        return tensor.to(target.dtype)
    return tensor
