"""Flux, Flux2 and what else is built on comfy.ldm.flux.model.Flux.

The text is joined in front of the image. Modulation is the same for all tokens, so the last layer works on each token
alone and is gathered behind it (64 channels instead of 3072). `img[:, txt.shape[1]:]` stays right: the text is local.
Reference latents (Kontext) are more image tokens, and right, but index_timestep_zero modulates them by position.
"""

from __future__ import annotations

from ..plan import AttentionScope, Gather, Guard, Plan, Split, SplitJoint
from .guards import CONTROL, PATCHES

PLAN = Plan(
    family="Flux",
    models=("comfy.ldm.flux.model.Flux",),
    joint=("text", "image"),
    actions=(
        Split("double_blocks.first", "txt", "text"),
        Split("double_blocks.first", "img", "image"),
        SplitJoint("double_blocks.*", "pe", dim=2),
        SplitJoint("single_blocks.*", "pe", dim=2),
        AttentionScope("double_blocks.*", calls=(("text", "image"),)),
        AttentionScope("single_blocks.*", calls=(("text", "image"),)),
        Gather("final_layer", ("image",)),
    ),
    guards=(
        PATCHES,
        CONTROL,
        Guard(
            "double_blocks.*",
            lambda arguments: arguments.get("modulation_dims_img") is not None,
            "reference latents of the method index_timestep_zero",
        ),
    ),
)
