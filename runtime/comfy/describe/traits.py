"""A table of ComfyUI's model families whose batch cannot be divided in every way, and why. Add the next one here."""

from __future__ import annotations

from typing import Any

import comfy.model_base

from ...planner.facts import Traits

_BY_DIFFUSION_MODEL = {
    "HunYuanDiTPlain": Traits("Hunyuan3D 2.1", pairs_conditions=True),
    # It repeats the text per window, but uses the first rows of it in Q and K for all videos.
    "NaDiT": Traits("SeedVR2 3B", mixes_batch=True),
}
_BY_MODEL = {comfy.model_base.SVD_img2vid: Traits("Stable Video Diffusion", batch_is_frames=True)}
_NONE = Traits()


def traits_of(model: Any) -> Traits:
    """The traits of a model (a comfy.model_base.BaseModel)."""
    module = model.diffusion_model
    if getattr(module, "_7b_version", False):  # SeedVR2 7B has another attention
        return _NONE
    named = _BY_DIFFUSION_MODEL.get(type(module).__qualname__)
    return named or next((traits for kind, traits in _BY_MODEL.items() if isinstance(model, kind)), _NONE)
