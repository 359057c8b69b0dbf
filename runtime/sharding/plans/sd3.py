"""Stable Diffusion 3 and 3.5.

A joint block is called as (context, x, c=...). With x_block_self_attn (3.5 medium) it attends twice: over text and
image, then over the image alone. Positions are added before the blocks. The last layer works on each token alone. What
a ControlNet adds is cut to the own image tokens.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Plan, Residuals, Split
from .guards import INSIDE

PLAN = Plan(
    family="SD3",
    models=(
        "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT",
    ),
    joint=("text", "image"),
    actions=(
        Residuals("", "control", "image"),
        Split("joint_blocks.first", 0, "text"),
        Split("joint_blocks.first", 1, "image"),
        AttentionScope("joint_blocks.*", calls=(("text", "image"), ("image",))),
        Gather("final_layer", ("image",)),
    ),
    guards=(INSIDE,),
    blocks=(Blocks("joint_blocks.*", ((0, ("text",), 0), (1, ("image",), 1))),),
)
