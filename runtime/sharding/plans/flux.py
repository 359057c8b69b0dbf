"""Flux, Flux2 and other models built on comfy.ldm.flux.model.Flux: Kontext, Fill, Redux, Krea, LongCat.

The text is joined in front of the image. Modulation is the same for all tokens, so the last layer works on each token
alone, and we gather after it (64 channels instead of 3072). `img[:, txt.shape[1]:]` stays right: the text is local.
Reference latents (Kontext) are more image tokens. index_timestep_zero modulates ranges of them, which become ranges of
local tokens (except in the last layer, whose reference tokens are dropped). Control is cut to the local image tokens.
"""

from __future__ import annotations

from typing import Any

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, ControlResiduals, Gather, LocalArgument, Passed, Plan, SplitJoint
from .guards import INSIDE

Ranges = list[tuple[int, int | None, int]]
"""Ranges of tokens: (first, last plus one, index of the modulation)."""


def ranges(dims: Ranges, shard: LocalShard) -> Any:
    """The same ranges, counted in local tokens."""
    return [(shard.position(first), shard.position(last), index) for first, last, index in dims]


def _joint_ranges(dims: Ranges, shard: LocalShard) -> Ranges:
    """Of image tokens, to which the model has added the number of text tokens it holds; 0 is the first text token."""
    text, counted = shard.layout.lengths[0], shard.between[0]

    def move(token: int) -> int:
        return shard.position(token - counted + text) if token else 0

    return [(move(first), move(last), index) for first, last, index in dims]


PLAN = Plan(
    family="Flux",
    models=("comfy.ldm.flux.model.Flux",),
    joint=("text", "image"),
    blocks=(
        Blocks("double_blocks.*", (("img", ("image",), 0), ("txt", ("text",), 1))),
        Blocks("single_blocks.*", (("x", ("text", "image"), None),)),
    ),
    actions=(
        ControlResiduals("", "control", "image"),
        SplitJoint("double_blocks.*", "pe", dim=2),
        SplitJoint("single_blocks.*", "pe", dim=2),
        LocalArgument("double_blocks.*", "modulation_dims_img", ("image",), ranges),
        LocalArgument("single_blocks.*", "modulation_dims", ("text", "image"), _joint_ranges),
        AttentionScope("double_blocks.*"),
        AttentionScope("single_blocks.*"),
        Gather("final_layer", ("image",)),
    ),
    passed=(
        Passed("double_blocks.*", ("vec", "attn_mask", "modulation_dims_txt")),
        Passed("single_blocks.*", ("vec", "attn_mask")),
        Passed("final_layer", ("x", "vec", "modulation_dims")),
    ),
    guards=(INSIDE,),
)
