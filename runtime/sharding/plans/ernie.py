"""ERNIE-Image.

The layers see one sequence, image then text, which is split as one segment: the model cuts the image out of all tokens.
It calls ComfyUI's attention without transformer_options, so we patch the attention function its module imports.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Passed, Plan, SplitJoint
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="ERNIE-Image",
    models=("comfy.ldm.ernie.model.ErnieImageModel",),
    joint=("tokens",),
    blocks=(Blocks("layers.*", (("x", ("tokens",), None),)),),
    actions=(
        SplitJoint("layers.*", "rotary_pos_emb", dim=1),
        AttentionScope("layers.*.self_attention", caller="comfy.ldm.ernie.model"),
        Gather("final_linear", ("tokens",)),
    ),
    passed=(Passed("layers.*", ("temb", "attention_mask")),),
    guards=(INSIDE, CONTROL),
)
