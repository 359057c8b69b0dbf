"""Stable Diffusion 3 and 3.5.

A joint block passes its arguments on to a function. With x_block_self_attn (3.5 medium) it attends twice: over text and
image, then over the image alone. Positions are added before the blocks. The last layer works on each token alone.
Control is cut to the local image tokens.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, ControlResiduals, Gather, Passed, Plan
from .guards import INSIDE

_MMDIT = "comfy.ldm.modules.diffusionmodules.mmdit"

PLAN = Plan(
    family="SD3",
    models=(
        f"{_MMDIT}.OpenAISignatureMMDITWrapper",
        f"{_MMDIT}.MMDiT",
    ),
    joint=("text", "image"),
    blocks=(Blocks("joint_blocks.*", (("context", ("text",), 0), ("x", ("image",), 1))),),
    actions=(
        ControlResiduals("", "control", "image"),
        AttentionScope("joint_blocks.*", calls=(("text", "image"), ("image",))),
        Gather("final_layer", ("image",)),
    ),
    passed=(
        Passed("joint_blocks.*", ("c", "context_block", "x_block"), hands_to=f"{_MMDIT}._block_mixing"),
        Passed("final_layer", ("x", "c")),
    ),
    guards=(INSIDE,),
)
