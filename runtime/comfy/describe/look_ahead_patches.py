"""Finds what in a workflow keeps Step Reuse from making calls ahead, or several calls as one batch."""

from __future__ import annotations

from typing import Any

from .conditions_per_call import predicts_by_cfg
from .model_changes import acts_within, conditions_of, wraps
from .wrapper_owners import AROUND_A_CALL

# Keys of a condition that takes part in some steps only, or differently from step to step.
SCHEDULED = ("start_percent", "end_percent", "clip_start_percent", "hooks", "control", "area", "mask")


def reason_against_look_ahead(guider: Any) -> str:
    """Why no call can be made ahead of its time, with the way out; empty if calls can."""
    cache = guider.model_options.get("transformer_options", {}).get("easycache")
    if cache is not None:
        return (
            f"{getattr(cache, 'name', 'EasyCache')} skips model calls by comparing each with the one before, and Step "
            "Reuse makes calls ahead of their time; use one of the two."
        )
    # Only the call itself shows whether a default condition takes part in it.
    for cond in conditions_of(guider):
        hooks = getattr(cond.get("hooks"), "hooks", []) if "default" in cond else []
        if any(len(hook.hook_keyframe.keyframes) > 1 for hook in hooks):
            return (
                "A default condition (Cond Set Default Combine) has hooks with keyframes (a scheduled LoRA or model "
                "hook), which go by the calls it takes part in, and with Step Reuse no worker sees all; unplug Step "
                "Reuse, or use hooks without keyframes there."
            )
    return ""


def reason_against_batched_calls(guider: Any, arguments: Any) -> str:
    """Why calls of different steps cannot be evaluated as one batch; empty if they can."""
    if arguments.denoise_mask is not None:
        return "the latent has a noise mask"
    options = guider.model_options
    around = any(key.startswith("sampler_") for key in options) or wraps(guider, *AROUND_A_CALL)
    in_options = options.get("transformer_options", {}).get("context_handler")
    windows = in_options or options.get("context_handler") is not None
    if around or windows or acts_within(guider):
        return "patches of this model may act by the step, and a batch would hold several"
    if not predicts_by_cfg(guider):
        return f"the guider {type(guider).__name__} may act by the step, and a batch would hold several"
    for cond in conditions_of(guider):
        if found := [key for key in SCHEDULED if cond.get(key) is not None]:
            return f"a condition has {found[0]}, which acts by the step"
    return ""
