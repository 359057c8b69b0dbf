"""The seams of devices and memory, a part of the table in seams.py.

The stand-in of run/parking.py for the workers' weights is a ModelPatcher, and so is the patcher of shipping/mapped.py.
"""

from __future__ import annotations

from .seam import EVERYTHING, Seam

MEMORY = (
    Seam("comfy.model_management", "get_torch_device", (EVERYTHING,), "The device of this process.", ""),
    Seam("comfy.model_management", "intermediate_device", (EVERYTHING,), "Where sampling nodes put latents.", ""),
    Seam("comfy.model_management", "intermediate_dtype", (EVERYTHING,), "What sampling nodes make of latents.", ""),
    Seam("comfy.model_management", "in_training", (EVERYTHING,), "It is true while a node trains."),
    Seam("comfy.model_management", "current_loaded_models", (EVERYTHING,), "The list of what is on devices."),
    Seam(
        "comfy.model_management",
        "LoadedModel",
        (EVERYTHING,),
        "An entry of that list; it holds the patcher weakly.",
        "model",
    ),
    Seam(
        "comfy.model_management",
        "LoadedModel.device LoadedModel.model LoadedModel.model_finalizer LoadedModel.real_model",
        (EVERYTHING,),
        "real_model and model_finalizer are set when it is loaded, which the stand-in never is.",
    ),
    Seam("comfy.model_management", "cleanup_models", (EVERYTHING,), "It drops entries whose model is gone.", ""),
    Seam("comfy.model_management", "minimum_inference_memory", (EVERYTHING,), "What a run needs besides weights.", ""),
    Seam(
        "comfy.model_management",
        "get_free_memory",
        (EVERYTHING,),
        "Bytes that this process can still use on a device, and how many of them its allocator keeps already.",
        "dev, *, torch_free_too",
    ),
    Seam(
        "comfy.model_management",
        "free_memory",
        (EVERYTHING,),
        "It unloads models from a device, by partially_unload and detach of their patchers, until so much is free.",
        "memory_required, device, *, keep_loaded",
    ),
    Seam(
        "comfy.model_management",
        "unload_model_and_clones",
        (EVERYTHING,),
        "It unloads a model.",
        "model",
    ),
    Seam("comfy.model_management", "unload_all_models", (EVERYTHING,), "It unloads every model.", ""),
    Seam("comfy.model_management", "soft_empty_cache", (EVERYTHING,), "It gives cached memory back.", "*, force"),
    Seam(
        "comfy.patcher_extension",
        "WrappersMP.PREPARE_SAMPLING",
        (EVERYTHING,),
        "Wrappers of this kind are called around the loading of models, with the patcher and the latent's shape.",
    ),
    Seam(
        "comfy.model_base",
        "BaseModel.memory_required",
        (EVERYTHING,),
        "Bytes that a call with a latent of this shape needs; by it ComfyUI decides how much of the weights it loads.",
        "input_shape, cond_shapes",
        replaced=True,
    ),
    Seam(
        "comfy.model_management",
        "MAX_PINNED_MEMORY TOTAL_PINNED_MEMORY",
        (EVERYTHING,),
        "Bytes of the host's memory that this process may pin, negative if none, and that it has pinned.",
    ),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.pin_weight_to_device ModelPatcher.unpin_weight",
        (EVERYTHING,),
        "They pin a weight on the host, where it is, and undo that; `pinned` has the names.",
        "key",
        replaced=True,
    ),
    Seam("comfy.model_patcher", "LowVramPatch", (EVERYTHING,), "It patches a weight in each call."),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.load",
        (EVERYTHING,),
        "It brings weights to the device and patches them; those for which there is no room get a LowVramPatch.",
        "device_to, lowvram_model_memory, force_patch_weights, full_load",
        replaced=True,
    ),
    Seam("comfy.model_patcher", "ModelPatcher.pinned", (EVERYTHING,), "The names of the weights that are pinned."),
    Seam("comfy.utils", "set_attr_param", (EVERYTHING,), "It sets a parameter by its path.", "obj, attr, value"),
    Seam("comfy.model_management", "unet_offload_device", (EVERYTHING,), "The CPU, but not with --highvram.", ""),
    Seam(
        "comfy.model_management",
        "LoadedModel.model_unload",
        (EVERYTHING,),
        "It frees so many bytes; true if nothing stays loaded.",
        "memory_to_free",
    ),
    Seam("comfy.model_management", "LoadedModel.model_loaded_memory", (EVERYTHING,), "Bytes on the device.", ""),
    Seam("comfy.model_patcher", "ModelPatcher.loaded_size", (EVERYTHING,), "Bytes on the device.", "", replaced=True),
    Seam("comfy.model_patcher", "ModelPatcher.model_size", (EVERYTHING,), "Bytes of all weights.", "", replaced=True),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.partially_unload",
        (EVERYTHING,),
        "It frees so many bytes and says how many it freed.",
        "device_to, memory_to_free, force_patch_weights",
        replaced=True,
    ),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.detach",
        (EVERYTHING,),
        "It takes the model off its device.",
        "unpatch_all",
        replaced=True,
    ),
)
