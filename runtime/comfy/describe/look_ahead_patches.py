"""Finds what keeps Step Reuse from making calls ahead, or several as one batch: patches, conditions, guider, mask."""

from __future__ import annotations

from typing import Any

from .conditions_per_call import predicts_by_cfg
from .customisations import Customisations

# Keys of a condition that takes part in some steps only, or differently from step to step.
SCHEDULED = ("start_percent", "end_percent", "clip_start_percent", "hooks", "control", "area", "mask")


def reason_against_look_ahead(custom: Customisations) -> str:
    """Why no call can be made ahead of its time, with the way out; empty if calls can."""
    if custom.easycache is not None:
        name = getattr(custom.easycache, "name", "EasyCache")
        return (
            f"{name} skips model calls by comparing each with the one before, and Step Reuse makes calls ahead of "
            "their time; use one of the two."
        )
    # Only the call itself shows whether a default condition takes part in it.
    for cond in custom.conditions:
        hooks = getattr(cond.get("hooks"), "hooks", []) if "default" in cond else []
        if any(len(hook.hook_keyframe.keyframes) > 1 for hook in hooks):
            return (
                "A default condition (Cond Set Default Combine) has hooks with keyframes (a scheduled LoRA or model "
                "hook), which go by the calls it takes part in, and with Step Reuse no worker sees all; unplug Step "
                "Reuse, or use hooks without keyframes there."
            )
    return ""


def reason_against_batched_calls(custom: Customisations, guider: Any, arguments: Any) -> str:
    """Why calls of different steps cannot be evaluated as one batch; empty if they can."""
    if arguments.denoise_mask is not None:
        return "the latent has a noise mask"
    if custom.acts_by_step:
        return "patches of this model may act by the step, and a batch would hold several"
    if not predicts_by_cfg(guider):
        return f"the guider {type(guider).__name__} may act by the step, and a batch would hold several"
    for cond in custom.conditions:
        if found := [key for key in SCHEDULED if cond.get(key) is not None]:
            return f"a condition has {found[0]}, which acts by the step"
    return ""
