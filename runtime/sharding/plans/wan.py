"""Wan 2.1 and 2.2, text or image to video.

Only video tokens are split; cross-attention sees the whole text with local queries and needs no exchange. Reference
and context latents are more video tokens, cut off behind the head. A time step per frame would be repeated over local
tokens as if they were all the frames, so it is refused. Subclasses (VACE, camera, ...) do more between the blocks.
"""

from __future__ import annotations

from ..plan import AttentionScope, Gather, Guard, Plan, Split, SplitJoint
from .guards import CONTROL, PATCHES

PLAN = Plan(
    family="Wan",
    models=("comfy.ldm.wan.model.WanModel",),
    joint=("video",),
    actions=(
        Split("blocks.first", "x", "video"),
        SplitJoint("blocks.*", "freqs", dim=1),
        AttentionScope("blocks.*.self_attn", calls=(("video",),)),
        Gather("head", ("video",)),
    ),
    guards=(
        PATCHES,
        CONTROL,
        Guard(
            "blocks.*",
            lambda arguments: arguments["e"].ndim == 4 and arguments["e"].shape[1] > 1,
            "a time step per frame (image to video of Wan 2.2 5B)",
        ),
    ),
)
