"""Qwen-Image, Qwen-Image-Edit and Qwen-Image-Layered, and Mage-Flow, which has the same blocks.

The text is joined in front of the image. The blocks would make a mask as long as the local text, so the text mask is
taken out of their arguments, and attention gets one for the whole sequence. Reference latents are more image tokens;
index_timestep_zero modulates those from a position on, which becomes a number of local tokens. Control is cut.
"""

from __future__ import annotations

from dataclasses import replace

from ..plan import (
    AttentionScope,
    Blocks,
    ControlResiduals,
    Gather,
    KeyMask,
    LocalArgument,
    Passed,
    Plan,
    SplitJoint,
)
from .guards import INSIDE

PLAN = Plan(
    family="Qwen-Image",
    models=("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",),
    joint=("text", "image"),
    blocks=(
        Blocks("transformer_blocks.*", (("encoder_hidden_states", ("text",), 0), ("hidden_states", ("image",), 1))),
    ),
    actions=(
        ControlResiduals("", "control", "image"),
        SplitJoint("transformer_blocks.*", "image_rotary_emb", dim=2),
        KeyMask("transformer_blocks.*", "encoder_hidden_states_mask", "text"),
        LocalArgument(
            "transformer_blocks.*", "timestep_zero_index", ("image",), lambda token, shard: shard.position(token)
        ),
        AttentionScope("transformer_blocks.*"),
        Gather("proj_out", ("image",)),
    ),
    passed=(Passed("transformer_blocks.*", ("temb",)),),
    guards=(INSIDE,),
)
MAGE_FLOW = replace(
    PLAN,
    family="Mage-Flow",
    models=("comfy.ldm.mage_flow.model.MageFlowTransformer2DModel",),
    actions=tuple(action for action in PLAN.actions if not isinstance(action, LocalArgument)),
)
