"""Cosmos 1, text or image to video.

Tokens lie on a grid of time, height and width in front of the batch dimension. The model adds positions to them between
its blocks, so every block gets the local tokens, along time, and its output is gathered: one more exchange per block.
In a block self-attention comes first; cross-attention has local queries and the whole text.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan, Split
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="Cosmos",
    models=("comfy.ldm.cosmos.model.GeneralDIT",),
    joint=("video",),
    blocks=(Blocks("blocks.*", (("x", ("video",), None),), dim=0, grid=3),),
    actions=(
        Split("blocks.*", "x", "video", dim=0, grid=3),
        LocalArgument("blocks.*", "rope_emb_L_1_1_D", ("video",), lambda x, shard: shard.tokens(x, dim=0)),
        AttentionScope("blocks.*.blocks.0"),
        Gather("blocks.*", ("video",), dim=0),
    ),
    passed=(Passed("blocks.*", ("emb_B_D", "crossattn_emb", "crossattn_mask", "adaln_lora_B_3D")),),
    guards=(INSIDE, CONTROL),
)
