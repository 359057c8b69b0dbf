"""Hunyuan3D 2.0, with Flux's blocks but no positions, and 2.1, with blocks like HunyuanDiT's and experts.

2.0: the image, which is the condition, is joined in front of the shape. 2.1: the time is the first token of one
sequence, which is split as one segment; the last layer drops that token by position, so the tokens are gathered after
the last block. Skips from the first blocks to the last ones are as in HunyuanDiT. The experts work on each token alone.
Cross-attention has local queries and the whole image. 2.1 calls ComfyUI's attention without transformer_options, so we
patch the attention function its module imports.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan
from .guards import CONTROL, INSIDE
from .hydit import handed_on

PLAN = Plan(
    family="Hunyuan3D 2",
    models=("comfy.ldm.hunyuan3d.model.Hunyuan3Dv2",),
    joint=("image", "shape"),
    blocks=(
        Blocks("double_blocks.*", (("img", ("shape",), 0), ("txt", ("image",), 1))),
        Blocks("single_blocks.*", (("x", ("image", "shape"), None),)),
    ),
    actions=(
        AttentionScope("double_blocks.*"),
        AttentionScope("single_blocks.*"),
        Gather("final_layer", ("shape",)),
    ),
    passed=(
        Passed("double_blocks.*", ("vec", "pe", "attn_mask")),
        Passed("single_blocks.*", ("vec", "pe", "attn_mask")),
        Passed("final_layer", ("x", "vec")),
    ),
    guards=(INSIDE, CONTROL),
)

MOE = Plan(
    family="Hunyuan3D 2.1",
    models=("comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain",),
    joint=("tokens",),
    blocks=(Blocks("blocks.*", (("hidden_states", ("tokens",), None),)),),
    actions=(
        LocalArgument("blocks.*", "skip_tensor", ("tokens",), handed_on),
        AttentionScope("blocks.*.attn1", caller="comfy.ldm.hunyuan3dv2_1.hunyuandit"),
        Gather("blocks.last", ("tokens",)),
    ),
    passed=(Passed("blocks.*", ("conditioning", "text_states")),),
    guards=(INSIDE, CONTROL),
)
