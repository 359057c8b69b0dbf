"""PixArt Alpha and Sigma.

Only image tokens are split; cross-attention has local queries and the whole text. Without a text it would attend to the
image instead, which is refused. A mask of self-attention is one of keys, for all tokens.
"""

from __future__ import annotations

from ...sharding.plan import AttentionScope, Gather, Guard, KeyMask, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import ATTENTION_ARGUMENTS, TRANSFORMERS

_TEXT = Guard(lambda arguments: arguments.get("encoder_hidden_states") is None, "no text (encoder_hidden_states)")

PLAN = Plan(
    family="PixArt",
    models=(f"{TRANSFORMERS}.pixart_transformer_2d.PixArtTransformer2DModel",),
    library=DIFFUSERS,
    joint=("image",),
    actions=(
        Split("transformer_blocks.first", "hidden_states", "image"),
        KeyMask("transformer_blocks.*", "attention_mask"),
        AttentionScope("transformer_blocks.*.attn1"),
        Gather("proj_out", ("image",)),
    ),
    passed=(
        Passed(
            "transformer_blocks.*",
            (
                "encoder_hidden_states",
                "encoder_attention_mask",
                "timestep",
                "cross_attention_kwargs",
                "class_labels",
                "added_cond_kwargs",
            ),
        ),
    ),
    guards=(ATTENTION_ARGUMENTS, _TEXT),
)
