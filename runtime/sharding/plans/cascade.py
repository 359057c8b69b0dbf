"""Stable Cascade: stage C makes a small latent from a text, stage B a larger one from that.

The rows of the picture are split after the embedding, where stage B has added the other stage's latent. A block takes
the norm of every channel over all pixels. In a transformer the text's keys follow the picture's. Stage C has one
resolution (a checkpoint that resizes between its levels is refused); stage B halves the rows without rounding up.
"""

from __future__ import annotations

from ..family import Guard
from ..parameters import Passed
from ..rows.row_plan import RowPlan

_CASCADE = "comfy.ldm.cascade"
_COMMON = f"{_CASCADE}.common"

PLAN = RowPlan(
    family="Stable Cascade",
    models=(f"{_CASCADE}.stage_c.StageC", f"{_CASCADE}.stage_b.StageB"),
    first="down_downscalers.first",
    last="clf.1",
    upsamples=(),
    transformers=(f"{_COMMON}.Attention2D",),
    over_frames=(),
    self_attention=("attn",),
    local=(
        f"{_COMMON}.LayerNorm2d_op.<locals>.LayerNorm2d",
        f"{_COMMON}.ResBlock",
        f"{_COMMON}.AttnBlock",
        f"{_COMMON}.FeedForwardBlock",
        f"{_COMMON}.TimestepBlock",
        f"{_COMMON}.OptimizedAttention",
        f"{_CASCADE}.stage_c.UpDownBlock2d",
        "torch.nn.modules.pixelshuffle.PixelUnshuffle",
        "torch.nn.modules.pixelshuffle.PixelShuffle",
    ),
    passed=(
        Passed(f"{_COMMON}.ResBlock", ("x", "x_skip")),
        Passed(f"{_COMMON}.TimestepBlock", ("x", "t")),
        Passed(f"{_COMMON}.AttnBlock", ("x", "kv")),
        Passed(f"{_COMMON}.Attention2D", ("x", "kv", "self_attn")),
    ),
    norms=(f"{_COMMON}.GlobalResponseNorm",),
    text_in_attention=True,
    resizes_control=True,
    without_rows=(
        "clip_mapper",
        "clip_txt_mapper",
        "clip_txt_pooled_mapper",
        "clip_img_mapper",
        "clip_norm",
        "embedding",
        "effnet_mapper",
        "pixels_mapper",
    ),
    guards=(
        Guard(
            lambda arguments: not all(getattr(part, "self_attn", True) for part in arguments["self"].modules()),
            "transformers that attend to the text alone",
        ),
    ),
)
