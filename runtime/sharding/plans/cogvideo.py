"""CogVideoX, text or image to video.

The text is joined in front of the video; only the video has rotary positions. The last layers work on each token alone.
"""

from __future__ import annotations

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan
from .guards import CONTROL, INSIDE


def _rope(cos_sin: tuple[Tensor, Tensor], shard: LocalShard) -> tuple[Tensor, ...]:
    return tuple(shard.tokens(x, dim=0) for x in cos_sin)


PLAN = Plan(
    family="CogVideoX",
    models=("comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel",),
    joint=("text", "video"),
    blocks=(Blocks("blocks.*", (("encoder_hidden_states", ("text",), 1), ("hidden_states", ("video",), 0))),),
    actions=(
        LocalArgument("blocks.*", "image_rotary_emb", ("video",), _rope),
        AttentionScope("blocks.*"),
        Gather("proj_out", ("video",)),
    ),
    passed=(Passed("blocks.*", ("temb",)),),
    guards=(INSIDE, CONTROL),
)
