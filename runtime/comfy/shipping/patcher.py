"""Sends a ModelPatcher to the workers: a recipe (how its loader made it) and a delta (what the workflow changed since).

A model whose loader left no recipe, such as a ControlNet, is sent by value: its structure pickled, each large tensor
an entry of the shared store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher

from ...pool.store import Store
from .import_finders import PathModules
from .mapped import MappedPatcher
from .pickling import JobPickler, JobUnpickler, ShippingError

# Attributes that do not travel: the module, its devices, and what is applied to it at present.
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


def describe(patcher: ModelPatcher) -> str:
    """The name of a model in a message."""
    return f"{type(patcher.model).__name__} ({type(patcher).__name__})"


@dataclass(frozen=True)
class Recipe:
    """How a worker makes a patcher's model: the `stream` for `make_model`, and the tensors and packs it refers to.

    Equal streams make equal models, so that a worker can keep and reuse the model it made.
    """

    stream: bytes
    tensor_keys: frozenset[str]
    roots: frozenset[str]


def recipe_of(patcher: ModelPatcher, store: Store) -> Recipe:
    """The call of its loader that makes the model again; if the loader left none, the pickled model itself.

    A recipe includes the modification times of its files, so that a replaced file is reloaded. A pickled model is sent
    at rest: unpatched, and off the device.

    Raises ShippingError for a model that has no recipe and cannot be pickled.
    """
    pickler = JobPickler(store)
    if patcher.cached_patcher_init is not None:
        _refuse_changes_in_place(patcher)
        factory, arguments, *index = patcher.cached_patcher_init
        _refuse_removed_files(patcher, arguments)
        files = [(a, os.stat(a).st_mtime_ns) for a in arguments if isinstance(a, str) and os.path.isfile(a)]
        pickler.write((_from_loader, (factory, arguments, index, files)), f"The loader of {describe(patcher)}")
    else:
        made = (_from_module, (patcher.model, patcher.load_device, patcher.offload_device))
        pickler.write(made, f"{describe(patcher)}, whose loader keeps no recipe (cached_patcher_init),")
        if pickler.patchers:
            raise ShippingError(
                f"{describe(patcher)}, whose loader keeps no recipe (cached_patcher_init), cannot be sent to the "
                f"workers: it holds another model, {describe(pickler.patchers[0])}. Bypass the node that loads it, or "
                'set on_unsupported of Parallel Model to "run on one device".'
            )
    return Recipe(pickler.stream(), frozenset(pickler.tensor_keys), frozenset(pickler.roots()))


def _refuse_removed_files(patcher: ModelPatcher, arguments: tuple) -> None:
    """Raises ShippingError if a file was removed since it was loaded here."""
    for path in arguments:
        if isinstance(path, str) and os.path.isabs(path) and not os.path.exists(path):
            raise ShippingError(
                f"{path}, the file of {describe(patcher)}, was removed since it was loaded, and the workers load the "
                'model from it. Put it back, or set on_unsupported of Parallel Model to "run on one device".'
            )


def _refuse_changes_in_place(patcher: ModelPatcher) -> None:
    """Raises ShippingError if a node changed convolutions in place, as those for seamless pictures do.

    No file that a worker could load has such a change.
    """
    for path, module in patcher.model.named_modules():
        if "_conv_forward" in vars(module):
            raise ShippingError(
                f"A node has changed a convolution of {describe(patcher)} in place ({path}), as those for seamless "
                "tiles do, and the workers load the model from its file, without the change. Bypass that node and load "
                'the model anew, or set on_unsupported of Parallel Model to "run on one device".'
            )


def make_model(stream: bytes, store: Store, device: torch.device, modules: PathModules) -> ModelPatcher:
    """Make a model from its recipe, with weights mapped from the file or the store, not copied."""
    make, arguments = JobUnpickler(stream, [], store, device, modules).read()
    return MappedPatcher.of(make(*arguments))


def _from_loader(factory: Callable, arguments: tuple, index: list[int], _files: list) -> ModelPatcher:
    with mapped_weights():
        made = factory(*arguments)
    return made[index[0]] if index else made


def _from_module(model: torch.nn.Module, load_device: torch.device, offload_device: torch.device) -> ModelPatcher:
    return ModelPatcher(model, load_device, offload_device)


def write_delta(patcher: ModelPatcher, pickler: JobPickler) -> None:
    """Write all that the workflow put on the patcher, one piece per attribute so that an error names the attribute.

    A worker makes a plain ModelPatcher around a module sent by value, so the patcher's class is written too. Dynamic
    patchers become plain: dynamic loading is for processes that run ComfyUI's main.py.
    """
    kept = {name: value for name, value in vars(patcher).items() if name not in _OWN}
    plain = patcher.cached_patcher_init is not None or patcher.is_dynamic()
    pickler.write((None if plain else type(patcher), list(kept)), describe(patcher))
    for name, value in kept.items():
        pickler.write(value, f"{name.replace('_', ' ').capitalize()} of {describe(patcher)}")


def read_delta(patcher: ModelPatcher, unpickler: JobUnpickler) -> None:
    """Set on a worker's clone what `write_delta` wrote of the parent's patcher."""
    kind, names = unpickler.read()
    if kind not in (None, ModelPatcher):
        patcher.__class__ = kind
    for name in names:
        setattr(patcher, name, unpickler.read())


@contextmanager
def mapped_weights() -> Iterator[None]:
    """While active, loading a diffusion model's state dict assigns its tensors instead of copying their values.

    Tensors read from a safetensors file are memory-mapped, so all workers share one copy in the page cache. A tensor
    whose dtype is not the model's is cast, as copying would do.
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
