"""JoyImage Edit.

The text, which has no rotary positions, is joined after the image. Reference latents are more image tokens; the model
cuts them off by the full length of the picture after its last block, so the image is gathered there.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="JoyImage",
    models=("comfy.ldm.joyimage.model.JoyImageTransformer3DModel",),
    joint=("image", "text"),
    blocks=(Blocks("double_blocks.*", (("hidden_states", ("image",), 0), ("encoder_hidden_states", ("text",), 1))),),
    actions=(
        LocalArgument("double_blocks.*", "image_rotary_emb", ("image",), lambda pe, shard: shard.tokens(pe)),
        AttentionScope("double_blocks.*"),
        Gather("double_blocks.last", ("image",), item=0),
    ),
    passed=(Passed("double_blocks.*", ("temb",)),),
    guards=(INSIDE, CONTROL),
)
