"""Hunyuan Video, Hunyuan Video 1.5, Hunyuan Image 2.1 and its refiner.

The text (with ByT5 and image features joined to it) is joined in front of the video. The model makes the text mask for
all tokens, so it passes unchanged. Image to video by token replacement modulates the first frame by position: ranges
become ranges of local tokens, in the single blocks counted from the first text token, as the model does. A reference
latent is cut off by its full length before the last layer, so with one the model holds all tokens between its blocks.
1.5 has no single blocks.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, ControlResiduals, Gather, LocalArgument, Passed, Plan, SplitJoint
from .flux import ranges
from .guards import INSIDE

PLAN = Plan(
    family="Hunyuan Video",
    models=("comfy.ldm.hunyuan_video.model.HunyuanVideo",),
    joint=("text", "video"),
    blocks=(
        Blocks("double_blocks.*", (("img", ("video",), 0), ("txt", ("text",), 1))),
        Blocks("single_blocks.*", (("x", ("text", "video"), None),)),
    ),
    actions=(
        ControlResiduals("", "control", "video"),
        SplitJoint("double_blocks.*", "pe", dim=2),
        SplitJoint("single_blocks.*", "pe", dim=2),
        LocalArgument("double_blocks.*", "modulation_dims_img", ("video",), ranges),
        LocalArgument("single_blocks.*", "modulation_dims", ("text", "video"), ranges),
        LocalArgument("final_layer", "modulation_dims", ("video",), ranges, outside=True),
        AttentionScope("double_blocks.*"),
        AttentionScope("single_blocks.*"),
        Gather("final_layer", ("video",)),
    ),
    passed=(
        Passed("double_blocks.*", ("vec", "attn_mask", "modulation_dims_txt")),
        Passed("single_blocks.*", ("vec", "attn_mask")),
        Passed("final_layer", ("x", "vec")),
    ),
    guards=(INSIDE,),
    whole_with=("ref_latent",),
)
