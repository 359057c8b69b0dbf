"""Frees the weights that a worker holds on its device, by ComfyUI's own list of loaded models."""

from __future__ import annotations

import comfy.model_management

OF_WEIGHTS = ("patches", "patches_uuid", "weight_wrapper_patches", "force_cast_weights")
"""The attributes of a patcher that decide what its model's weights are on the device."""


def free_weights(nbytes: int) -> bool:
    """Unload `nbytes` of weights or somewhat more, from the models used least recently first.

    Weights that are unloaded so are on the host, and the model works as before. Returns False if none are loaded.
    """
    freed = False
    for entry in reversed(list(comfy.model_management.current_loaded_models)):
        held = entry.model_loaded_memory()
        if nbytes > 0 and held > 0:
            unloaded = entry.model_unload(nbytes)
            nbytes -= held if unloaded else held - entry.model_loaded_memory()
            freed = True
            if unloaded:
                loaded = comfy.model_management.current_loaded_models
                loaded[:] = [other for other in loaded if other is not entry]
    return freed


def drop_models() -> None:
    """Empty the list, without moving any weights to the host."""
    for entry in comfy.model_management.current_loaded_models:
        entry.model_finalizer.detach()
    comfy.model_management.current_loaded_models.clear()


def keep_patches() -> None:
    """At the end of a job, whose patchers go: their parents, which stay, get what the loaded weights are made with.

    Weights that are unloaded later are then patched in each call, as they were on the device.
    """
    for entry in comfy.model_management.current_loaded_models:
        patcher = entry.model
        while patcher is not None and patcher.parent is not None:
            for name in OF_WEIGHTS:
                setattr(patcher.parent, name, getattr(patcher, name))
            patcher = patcher.parent
