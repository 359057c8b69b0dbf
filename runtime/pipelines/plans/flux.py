"""Flux: text to image, Kontext, Fill, Redux and Control.

The text is joined in front of the image, in both kinds of blocks. Modulation is the same for all tokens, so the last
layer works on each token alone. The images that Kontext is given are more image tokens.
"""

from __future__ import annotations

from ...sharding.plan import AttentionScope, ControlResiduals, Gather, LocalArgument, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import ATTENTION_ARGUMENTS, TRANSFORMERS, rotary

_PASSED = ("temb", "joint_attention_kwargs")

PLAN = Plan(
    family="Flux",
    models=(f"{TRANSFORMERS}.transformer_flux.FluxTransformer2DModel",),
    library=DIFFUSERS,
    joint=("text", "image"),
    actions=(
        ControlResiduals("", "controlnet_block_samples", "image"),
        ControlResiduals("", "controlnet_single_block_samples", "image"),
        Split("transformer_blocks.first", "encoder_hidden_states", "text"),
        Split("transformer_blocks.first", "hidden_states", "image"),
        LocalArgument("transformer_blocks.*", "image_rotary_emb", ("text", "image"), rotary),
        LocalArgument("single_transformer_blocks.*", "image_rotary_emb", ("text", "image"), rotary),
        AttentionScope("transformer_blocks.*.attn"),
        AttentionScope("single_transformer_blocks.*.attn"),
        Gather("proj_out", ("image",)),
    ),
    passed=(
        Passed("transformer_blocks.*", _PASSED),
        Passed("single_transformer_blocks.*", ("hidden_states", "encoder_hidden_states", *_PASSED)),
    ),
    guards=(ATTENTION_ARGUMENTS,),
)
