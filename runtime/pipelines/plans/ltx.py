"""LTX-Video: text or image to video.

Only video tokens are split; cross-attention has local queries and the whole text. With a time step per token (image to
video) the model itself modulates the tokens before the last layer, so they are gathered before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...sharding.local_shard import LocalShard
from ...sharding.plan import AttentionScope, Gather, LocalArgument, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import ATTENTION_ARGUMENTS, TRANSFORMERS, batched_rotary


def _per_token(arguments: Mapping[str, Any]) -> bool:
    return arguments["timestep"].numel() > arguments["hidden_states"].shape[0]


def _local(temb: Tensor, shard: LocalShard) -> Tensor:
    return shard.tokens(temb)


PLAN = Plan(
    family="LTX-Video",
    models=(f"{TRANSFORMERS}.transformer_ltx.LTXVideoTransformer3DModel",),
    library=DIFFUSERS,
    joint=("video",),
    actions=(
        Split("transformer_blocks.first", "hidden_states", "video"),
        LocalArgument("transformer_blocks.*", "image_rotary_emb", ("video",), batched_rotary),
        LocalArgument("transformer_blocks.*", "temb", ("video",), _local),
        AttentionScope("transformer_blocks.*.attn1"),
        Gather("norm_out", ("video",), when=_per_token),
        Gather("proj_out", ("video",), when=lambda arguments: not _per_token(arguments)),
    ),
    passed=(Passed("transformer_blocks.*", ("encoder_hidden_states", "encoder_attention_mask")),),
    guards=(ATTENTION_ARGUMENTS,),
)
