"""Families and classes that came to ComfyUI after 0.30, and whether the installed one has them."""

from __future__ import annotations

import importlib

from .base import use_comfyui

# By the family of the plan: the class.
FAMILIES = {
    "Qwen-Image 2.1": "comfy.ldm.qwen_image21.model.QwenImage21Transformer2DModel",
    "Kandinsky 6": "comfy.ldm.kandinsky6.model.Kandinsky6NativeAVDiT",
    "Wan-Animate 2": "comfy.ldm.wan.model_animate2.WanAnimate2Model",
}
IMAGE_OF_LTX = "comfy.ldm.lightricks.model.LTXVImageModel"


def absent():
    """The classes that the installed ComfyUI does not have."""
    use_comfyui()
    return {path for path in (*FAMILIES.values(), IMAGE_OF_LTX) if not _has(path)}


def families():
    """The families with a plan that the installed ComfyUI has."""
    from compact_parallel.runtime.sharding.plans import PLANS

    return {plan.family for plan in PLANS} - {family for family, path in FAMILIES.items() if path in absent()}


def where_present(path, cases):
    """The cases, or none where the installed ComfyUI does not have the class."""
    return {} if path in absent() else cases


def _has(path):
    module, _, name = path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if module != error.name and not module.startswith(f"{error.name}."):
            raise  # something else than the family is missing
        return False
