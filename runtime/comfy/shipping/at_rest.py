"""Puts a model at rest before it travels: off its device, and without what sampling here has applied to it."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher


def put_at_rest(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Unload a model from its device, and unpatch what is applied to it for sampling here, such as a LoRA."""
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    if any(model is not None and model.clone_base_uuid == patcher.clone_base_uuid for model in loaded):
        comfy.model_management.unload_model_and_clones(patcher, unload_additional_models=False, all_devices=True)
    if patcher.backup or patcher.object_patches_backup:
        patcher.unpatch_model(patcher.offload_device)
