"""OmniGen2, and Boogu, which puts double blocks in front of its layers.

The refiners before them run on every rank. Reference images are more image tokens, in front of the picture's. The
layers of OmniGen2 see one sequence without its lengths: it is split as one segment. A double block of Boogu attends
twice, over text and image, then over the image alone; after its last layer the local text still lies in front of the
image.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan, SplitJoint
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="OmniGen2",
    models=("comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel",),
    joint=("tokens",),
    blocks=(Blocks("layers.*", (("hidden_states", ("tokens",), None),)),),
    actions=(
        SplitJoint("layers.*", "image_rotary_emb", dim=1),
        AttentionScope("layers.*"),
        Gather("norm_out", ("tokens",)),
    ),
    passed=(
        Passed("layers.*", ("attention_mask", "temb")),
        Passed("norm_out", ("x", "conditioning_embedding")),
    ),
    guards=(INSIDE, CONTROL),
)

BOOGU = Plan(
    family="Boogu",
    models=("comfy.ldm.boogu.model.BooguTransformer2DModel",),
    joint=("text", "image"),
    blocks=(
        Blocks(
            "double_stream_layers.*",
            (("img_hidden_states", ("image",), 0), ("instruct_hidden_states", ("text",), 1)),
        ),
        Blocks("single_stream_layers.*", (("hidden_states", ("text", "image"), None),)),
    ),
    actions=(
        SplitJoint("double_stream_layers.*", "joint_rotary_emb", dim=1),
        LocalArgument("double_stream_layers.*", "img_rotary_emb", ("image",), lambda pe, shard: shard.tokens(pe)),
        SplitJoint("single_stream_layers.*", "image_rotary_emb", dim=1),
        AttentionScope("double_stream_layers.*", calls=(("text", "image"), ("image",))),
        AttentionScope("single_stream_layers.*"),
        Gather("norm_out", ("image",), after=("text",)),
    ),
    passed=(
        Passed("double_stream_layers.*", ("temb", "joint_attention_mask", "img_attention_mask")),
        Passed("single_stream_layers.*", ("attention_mask", "temb")),
        Passed("norm_out", ("x", "conditioning_embedding")),
    ),
    guards=(INSIDE, CONTROL),
)
