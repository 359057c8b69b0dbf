"""Mochi.

The text is joined after the video, and only its tokens before the padding; the padding is dropped before the split, as
nothing that reaches the output depends on it.
"""

from __future__ import annotations

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Gather, LocalArgument, Passed, Plan, Split
from .guards import CONTROL, PATCHES


def _rope(x: Tensor, shard: LocalShard) -> Tensor:
    return shard.tokens(x, dim=0)


PLAN = Plan(
    family="Mochi",
    models=("comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",),
    joint=("video", "text"),
    actions=(
        Split("blocks.first", "x", "video"),
        Split("blocks.first", "y", "text", until="crop_y"),
        LocalArgument("blocks.*", "rope_cos", ("video",), _rope),
        LocalArgument("blocks.*", "rope_sin", ("video",), _rope),
        AttentionScope("blocks.*"),
        Gather("final_layer", ("video",)),
    ),
    passed=(
        Passed("blocks.*", ("c",)),
        Passed("final_layer", ("x", "c")),
    ),
    guards=(PATCHES, CONTROL),
)
