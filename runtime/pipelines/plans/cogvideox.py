"""CogVideoX 1.0 and 1.5, text, image or video to video.

The text is joined in front of the video; only the video has rotary positions. The last layers work on each token alone.
"""

from __future__ import annotations

from ...sharding.plan import AttentionScope, Gather, LocalArgument, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import ATTENTION_ARGUMENTS, TRANSFORMERS, rotary

PLAN = Plan(
    family="CogVideoX",
    models=(f"{TRANSFORMERS}.cogvideox_transformer_3d.CogVideoXTransformer3DModel",),
    library=DIFFUSERS,
    joint=("text", "video"),
    actions=(
        Split("transformer_blocks.first", "encoder_hidden_states", "text"),
        Split("transformer_blocks.first", "hidden_states", "video"),
        LocalArgument("transformer_blocks.*", "image_rotary_emb", ("video",), rotary),
        AttentionScope("transformer_blocks.*.attn1"),
        Gather("proj_out", ("video",)),
    ),
    passed=(Passed("transformer_blocks.*", ("temb", "attention_kwargs")),),
    guards=(ATTENTION_ARGUMENTS,),
)
