"""Wan 2.1 and 2.2: text, image or video to video; and ChronoEdit, which has its blocks.

Only video tokens are split; cross-attention has local queries and the whole text and image. With a time step per token
(2.2 5B) the model itself modulates the tokens before the last layer, so they are gathered before that.
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
    return arguments["timestep"].ndim == 2


def _local(temb: Tensor, shard: LocalShard) -> Tensor:
    return shard.tokens(temb) if temb.ndim == 4 else temb


PLAN = Plan(
    family="Wan",
    models=(
        f"{TRANSFORMERS}.transformer_wan.WanTransformer3DModel",
        f"{TRANSFORMERS}.transformer_chronoedit.ChronoEditTransformer3DModel",
    ),
    library=DIFFUSERS,
    joint=("video",),
    actions=(
        Split("blocks.first", "hidden_states", "video"),
        LocalArgument("blocks.*", "rotary_emb", ("video",), batched_rotary),
        LocalArgument("blocks.*", "temb", ("video",), _local),
        AttentionScope("blocks.*.attn1"),
        Gather("norm_out", ("video",), when=_per_token),
        Gather("proj_out", ("video",), when=lambda arguments: not _per_token(arguments)),
    ),
    passed=(Passed("blocks.*", ("encoder_hidden_states",)),),
    guards=(ATTENTION_ARGUMENTS,),
)
