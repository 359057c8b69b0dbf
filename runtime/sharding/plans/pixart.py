"""PixArt Alpha and Sigma.

Only image tokens are split; cross-attention has local queries and the whole text. The model calls ComfyUI's attention
without transformer_options, so we patch the attention function its module imports.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Passed, Plan
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="PixArt",
    models=("comfy.ldm.pixart.pixartms.PixArtMS",),
    joint=("image",),
    blocks=(Blocks("blocks.*", (("x", ("image",), None),)),),
    actions=(
        AttentionScope("blocks.*.attn", caller="comfy.ldm.pixart.blocks"),
        Gather("final_layer", ("image",)),
    ),
    passed=(
        Passed("blocks.*", ("y", "t", "mask", "HW")),
        Passed("final_layer", ("x", "t")),
    ),
    guards=(INSIDE, CONTROL),
)
