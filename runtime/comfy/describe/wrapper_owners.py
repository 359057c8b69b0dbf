"""Finds out whether the wrappers around a model are this pack's, ComfyUI's or another pack's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...sharding.origin import homes_of, is_comfyui_s

# The kinds of wrappers that are called before the diffusion model itself runs.
AROUND_A_CALL = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)
_OURS = f"{__name__.partition('.runtime.')[0]}.runtime."


def wrapped_by_others(options: Mapping[str, Any], *kinds: str) -> bool:
    """Whether transformer_options hold wrappers of these kinds (WrappersMP) that are not this pack's own."""
    wrappers = options.get("wrappers", {})
    return any(
        not is_of_this_pack(wrapper)
        for kind in kinds
        for functions in wrappers.get(kind, {}).values()
        for wrapper in functions
    )


def may_change_the_model(model_options: Mapping[str, Any], transformer_options: Mapping[str, Any]) -> bool:
    """Whether other packs' code is around a model call; such code may change the model at some calls only."""
    function = model_options.get("model_function_wrapper")
    wrappers = transformer_options.get("wrappers", {})
    around = [f for kind in AROUND_A_CALL for functions in wrappers.get(kind, {}).values() for f in functions]
    return any(not is_of_comfyui(f) for f in (*around, *([function] if function is not None else ())))


def is_of_comfyui(thing: Any) -> bool:
    """Whether a function or class is ComfyUI's, or this pack's."""
    return is_of_this_pack(thing) or is_comfyui_s(thing)


def is_of_this_pack(thing: Any) -> bool:
    """Whether a function, class or object is of this pack's runtime, and so on a worker's model only during a job."""
    return all(home is not None and home.__name__.startswith(_OURS) for home in homes_of(thing))
