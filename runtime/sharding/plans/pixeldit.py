"""PixelDiT and PiD, the decoder made of it.

The text is joined in front of the image patches, which are split as they enter: PiD mixes its latent into them before
its first block. The two pixel blocks rearrange all pixels by the size of the picture: the patches are gathered for
them, and only their attention is split.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan, Split
from .guards import CONTROL, INSIDE


def _rows(x: Tensor, shard: LocalShard) -> Tensor:
    return shard.tokens(x, dim=0)


PLAN = Plan(
    family="PixelDiT",
    models=("comfy.ldm.pixeldit.model.PixDiT_T2I",),
    joint=("text", "image"),
    blocks=(
        Blocks("patch_blocks.*", (("x", ("image",), 0), ("y", ("text",), 1))),
        Blocks("pixel_blocks.*.attn", (("x", ("image",), None),)),
    ),
    actions=(
        Split("s_embedder", "x", "image"),
        LocalArgument("patch_blocks.*", "pos_img", ("image",), _rows),
        LocalArgument("patch_blocks.*", "pos_txt", ("text",), _rows),
        AttentionScope("patch_blocks.*"),
        Gather("patch_blocks.last", ("image",), item=0),
        Split("pixel_blocks.*.attn", "x", "image"),
        LocalArgument("pixel_blocks.*.attn", "pos", ("image",), _rows),
        AttentionScope("pixel_blocks.*.attn", calls=(("image",),)),
        Gather("pixel_blocks.*.attn", ("image",)),
    ),
    passed=(
        Passed("s_embedder", ()),
        Passed("patch_blocks.*", ("c", "attn_mask")),
        Passed("pixel_blocks.*.attn", ("mask",)),
    ),
    guards=(INSIDE, CONTROL),
)
PID = replace(
    PLAN,
    family="PiD",
    models=("comfy.ldm.pixeldit.pid.PidNet",),
    actions=(
        LocalArgument("lq_proj.gate_modules.*", "lq", ("image",), lambda lq, shard: shard.tokens(lq), outside=True),
        *PLAN.actions,
    ),
    passed=(*PLAN.passed, Passed("lq_proj.gate_modules.*", ("x", "sigma"))),
)
