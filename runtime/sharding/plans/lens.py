"""Lens.

The text is joined after the image. The model makes the mask of both for all tokens; it is taken out of the blocks'
arguments and given to attention. The last layer works on each token alone. Control is cut to the local image tokens.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, ControlResiduals, Gather, KeyMask, Passed, Plan, SplitJoint
from .guards import INSIDE

PLAN = Plan(
    family="Lens",
    models=("comfy.ldm.lens.model.LensTransformer2DModel",),
    joint=("image", "text"),
    blocks=(
        Blocks("transformer_blocks.*", (("encoder_hidden_states", ("text",), 0), ("hidden_states", ("image",), 1))),
    ),
    actions=(
        ControlResiduals("", "control", "image"),
        SplitJoint("transformer_blocks.*", "freqs_cis", dim=2),
        KeyMask("transformer_blocks.*", "attention_mask"),
        AttentionScope("transformer_blocks.*"),
        Gather("proj_out", ("image",)),
    ),
    passed=(Passed("transformer_blocks.*", ("temb",)),),
    guards=(INSIDE,),
)
