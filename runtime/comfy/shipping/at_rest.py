"""Puts a model at rest before it travels: off its device, and without what sampling here has applied to it."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher


def put_at_rest(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Unload a model from its device, and unpatch what is applied to it for sampling here, such as a LoRA."""
    entries = comfy.model_management.current_loaded_models
    base = patcher.clone_base_uuid
    own = [entry for entry in entries if entry.model is not None and entry.model.clone_base_uuid == base]
    others = [entry for entry in entries if all(entry is not each for each in own)]
    for device in {entry.device for entry in own}:  # asking another for its free memory would make a CUDA context there
        comfy.model_management.free_memory(1e30, device, keep_loaded=others)
    if patcher.backup or patcher.object_patches_backup:
        patcher.unpatch_model(patcher.offload_device)
