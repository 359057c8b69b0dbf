"""PixArt Alpha and Sigma.

Only image tokens are split; cross-attention sees the whole text with local queries. The model calls ComfyUI's attention
without transformer_options, so it is met in the module it calls it from.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Passed, Plan, Split
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="PixArt",
    models=("comfy.ldm.pixart.pixartms.PixArtMS",),
    joint=("image",),
    actions=(
        Split("blocks.first", "x", "image"),
        AttentionScope("blocks.*.attn", calls=(("image",),), caller="comfy.ldm.pixart.blocks"),
        Gather("final_layer", ("image",)),
    ),
    passed=(
        Passed("blocks.*", ("y", "t", "mask", "HW")),
        Passed("final_layer", ("x", "t")),
    ),
    guards=(INSIDE, CONTROL),
    blocks=(Blocks("blocks.*", (("x", ("image",), None),)),),
)
