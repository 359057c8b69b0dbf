"""Kandinsky 5, image and video.

Only visual tokens are split; cross-attention sees the whole text with local queries. The last layer needs the tokens on
their grid, so they are gathered behind the last block.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Passed, Plan, Split, SplitJoint
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="Kandinsky 5",
    models=("comfy.ldm.kandinsky5.model.Kandinsky5",),
    joint=("video",),
    actions=(
        Split("visual_transformer_blocks.first", "visual_embed", "video"),
        SplitJoint("visual_transformer_blocks.*", "freqs", dim=1),
        AttentionScope("visual_transformer_blocks.*.self_attention", calls=(("video",),)),
        Gather("visual_transformer_blocks.last", ("video",)),
    ),
    passed=(Passed("visual_transformer_blocks.*", ("text_embed", "time_embed")),),
    guards=(INSIDE, CONTROL),
    blocks=(Blocks("visual_transformer_blocks.*", (("visual_embed", ("video",), None),)),),
)
