"""Wan-Animate 2, a picture of a person driven by a video of another.

It is not in ComfyUI 0.30: tried on comfy/ldm/wan/model_animate2.py of commit 1e4169356ee7, over ComfyUI 0.30.

A frame attends to all frames and to one frame of the driving video, which a separate branch makes, with one attention
call per frame, and the blocks are not called as modules. So each rank has all tokens. The ranks divide the heads of the
attention, and the tokens of the modules that work on each token alone and take most of the other time, in both
branches. The driving video that ranks keep (WanAnimate2Cache) has all tokens. Patches see all tokens, as on one device.
"""

from __future__ import annotations

from ..plan import DivideHeads, DivideTokens, Passed, Plan
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="Wan-Animate 2",
    models=("comfy.ldm.wan.model_animate2.WanAnimate2Model",),
    joint=("video",),
    actions=(
        DivideHeads("", "comfy.ldm.wan.model_animate2", "optimized_attention"),
        DivideTokens("blocks.*.cross_attn", "x"),
        DivideTokens("blocks.*.ffn", 0),
    ),
    passed=(Passed("blocks.*.cross_attn", ("context", "context_img_len")),),
    guards=(INSIDE, CONTROL),
)
