"""Kandinsky 5, image and video, and Kandinsky 6, video with sound.

Only visual tokens are split; cross-attention has local queries and the whole text. The last layer needs the tokens on
their grid, so they are gathered after the last block. The few audio tokens of Kandinsky 6 are replicated: every rank
computes all of them. Video attends to all audio with local queries; audio attends to the video, which is gathered for
it.

Kandinsky 6 is not in ComfyUI 0.30: tried on comfy/ldm/kandinsky6/model.py of commit 0b61ce5baa9e, over ComfyUI 0.30.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Passed, Plan, Replicate, SplitJoint
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="Kandinsky 5",
    models=("comfy.ldm.kandinsky5.model.Kandinsky5",),
    joint=("video",),
    blocks=(Blocks("visual_transformer_blocks.*", (("visual_embed", ("video",), None),)),),
    actions=(
        SplitJoint("visual_transformer_blocks.*", "freqs", dim=1),
        AttentionScope("visual_transformer_blocks.*.self_attention"),
        Gather("visual_transformer_blocks.last", ("video",)),
    ),
    passed=(Passed("visual_transformer_blocks.*", ("text_embed", "time_embed")),),
    guards=(INSIDE, CONTROL),
)
SOUND = Plan(
    family="Kandinsky 6",
    models=("comfy.ldm.kandinsky6.model.Kandinsky6NativeAVDiT",),
    joint=("video",),
    blocks=(Blocks("visual_blocks.*", (("visual_embed", ("video",), 0),)),),
    actions=(
        SplitJoint("visual_blocks.*.videoT.self_attention", "freqs", dim=1),
        AttentionScope("visual_blocks.*.videoT.self_attention"),
        SplitJoint("visual_blocks.*.va_cross_attention", "rope_q", dim=1),
        Replicate("visual_blocks.*.av_cross_attention", "context", "video", cut=False),
        Gather("visual_blocks.last", ("video",), item=0),
    ),
    guards=(INSIDE, CONTROL),
)
