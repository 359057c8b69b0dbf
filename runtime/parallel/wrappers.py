"""Whose wrappers are around the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from comfy.patcher_extension import WrappersMP

# Those in which the model, called, is not yet at work.
AROUND_A_CALL = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)
_COMFYUI = ("comfy", "comfy_api", "comfy_extras")
_OURS = f"{__name__.partition('.runtime.')[0]}.runtime."


def wrapped_by_others(options: Mapping[str, Any], *kinds: str) -> bool:
    """Whether transformer_options hold wrappers of these kinds (WrappersMP) that are not this pack's own."""
    wrappers = options.get("wrappers", {})
    return any(
        not getattr(wrapper, "__module__", "").startswith(_OURS)
        for kind in kinds
        for functions in wrappers.get(kind, {}).values()
        for wrapper in functions
    )


def may_change_the_model(model_options: Mapping[str, Any], transformer_options: Mapping[str, Any]) -> bool:
    """Whether code of other packs is around a model call, which may put code into the model at some calls only."""
    function = model_options.get("model_function_wrapper")
    wrappers = transformer_options.get("wrappers", {})
    around = [f for kind in AROUND_A_CALL for functions in wrappers.get(kind, {}).values() for f in functions]
    return any(not _of_comfyui(f) for f in (*around, *([function] if function is not None else ())))


def _of_comfyui(function: Any) -> bool:
    module = getattr(function, "__module__", None) or ""
    return module.startswith(_OURS) or any(part in _COMFYUI for part in re.split(r"[./\\\\]", module))
