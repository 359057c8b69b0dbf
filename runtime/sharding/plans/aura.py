"""AuraFlow.

Register tokens and text are joined in front of the image. Positions are added before the layers; nothing else in the
model depends on positions. The last layer works on each token alone.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Passed, Plan
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="AuraFlow",
    models=("comfy.ldm.aura.mmdit.MMDiT",),
    joint=("text", "image"),
    blocks=(
        Blocks("double_layers.*", (("c", ("text",), 0), ("x", ("image",), 1))),
        Blocks("single_layers.*", (("cx", ("text", "image"), None),)),
    ),
    actions=(
        AttentionScope("double_layers.*"),
        AttentionScope("single_layers.*"),
        Gather("final_linear", ("image",)),
    ),
    passed=(
        Passed("double_layers.*", ("global_cond",)),
        Passed("single_layers.*", ("global_cond",)),
    ),
    guards=(INSIDE, CONTROL),
)
