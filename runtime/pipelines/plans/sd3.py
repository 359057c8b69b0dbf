"""Stable Diffusion 3 and 3.5.

The image is joined in front of the text. In blocks with a second attention (3.5 medium) that is over the image alone.
Positions are added before the blocks. The last layer works on each token alone.
"""

from __future__ import annotations

from ...sharding.plan import AttentionScope, ControlResiduals, Gather, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import ATTENTION_ARGUMENTS, TRANSFORMERS

PLAN = Plan(
    family="Stable Diffusion 3",
    models=(f"{TRANSFORMERS}.transformer_sd3.SD3Transformer2DModel",),
    library=DIFFUSERS,
    joint=("text", "image"),
    actions=(
        ControlResiduals("", "block_controlnet_hidden_states", "image"),
        Split("transformer_blocks.first", "encoder_hidden_states", "text"),
        Split("transformer_blocks.first", "hidden_states", "image"),
        AttentionScope("transformer_blocks.*.attn", last_first=True),
        AttentionScope("transformer_blocks.*.attn2", calls=(("image",),)),
        Gather("proj_out", ("image",)),
    ),
    passed=(Passed("transformer_blocks.*", ("temb", "joint_attention_kwargs")),),
    guards=(ATTENTION_ARGUMENTS,),
)
