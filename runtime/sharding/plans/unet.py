"""UNets of ComfyUI: Stable Diffusion 1, 2, XL and their relatives, Stable Video Diffusion.

The rows of the picture are split. The frames of a video are entries of the batch, except in its temporal layers, which
work on each pixel alone. Feature maps are rounded up when they are halved and take the skip's rows when they are
doubled, so the rows at every resolution follow from those at the lowest.
"""

from __future__ import annotations

from ..parameters import Passed
from ..rows.row_plan import RowPlan

_OPENAI = "comfy.ldm.modules.diffusionmodules.openaimodel"
_ATTENTION = "comfy.ldm.modules.attention"

PLAN = RowPlan(
    family="UNet",
    models=(f"{_OPENAI}.UNetModel",),
    first="input_blocks.first.first",
    last="out.last",
    upsamples=(f"{_OPENAI}.Upsample",),
    transformers=(f"{_ATTENTION}.SpatialTransformer", f"{_ATTENTION}.SpatialVideoTransformer"),
    over_frames=(f"{_ATTENTION}.SpatialVideoTransformer",),
    skips="input_blocks.*",
    layers=("input_blocks.*.*", "middle_block.*", "output_blocks.*.*", "out.*"),
    without_rows=("time_embed", "label_emb"),
    self_attention=("transformer_blocks.*.attn1", "transformer_blocks.*.attn2"),
    local=(
        f"{_OPENAI}.TimestepEmbedSequential",
        f"{_OPENAI}.ResBlock",
        f"{_OPENAI}.VideoResBlock",
        f"{_OPENAI}.Downsample",
        f"{_ATTENTION}.BasicTransformerBlock",
        f"{_ATTENTION}.CrossAttention",
        f"{_ATTENTION}.FeedForward",
        f"{_ATTENTION}.GEGLU",
        "comfy.ldm.modules.diffusionmodules.util.AlphaBlender",
    ),
    passed=(
        Passed(f"{_OPENAI}.ResBlock", ("x", "emb")),
        Passed(f"{_OPENAI}.VideoResBlock", ("x", "emb", "num_video_frames", "image_only_indicator")),
        Passed(f"{_OPENAI}.Downsample", ("x",)),
        Passed(f"{_OPENAI}.Upsample", ("x",)),
        Passed(f"{_ATTENTION}.SpatialTransformer", ("x", "context")),
        Passed(
            f"{_ATTENTION}.SpatialVideoTransformer",
            ("x", "context", "time_context", "timesteps", "image_only_indicator"),
        ),
        Passed(f"{_ATTENTION}.BasicTransformerBlock", ("x", "context")),
        Passed(f"{_ATTENTION}.CrossAttention", ("x", "context", "value", "mask")),
    ),
)
