"""Stable Audio 1 to 3.

Prepended and memory tokens are part of the one sequence that is split; cross-attention has local queries and the whole
text. Differential attention attends twice. Conditions that are added along the time are padded in front, as the model
does, and cut. The memory tokens are cut off after the last layer, where all tokens are gathered.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..local_shard import LocalShard
from ..plan import AttentionScope, Gather, Guard, LocalArgument, Passed, Plan, Split
from .guards import CONTROL, PATCHES


def _rope(freqs_scale: tuple[Tensor, float], shard: LocalShard) -> tuple[Tensor, float]:
    return shard.tokens(freqs_scale[0], dim=0), freqs_scale[1]


def _added(condition: Tensor, shard: LocalShard) -> Tensor:
    """The condition of the local tokens; those before the condition's start have none, and the model pads them."""
    ((first, last),) = shard.layout.ranges(shard.index)
    in_front = shard.total - condition.shape[1]
    return condition[:, max(0, first - in_front) : max(0, last - in_front)]


def _mixes_neighbours(layer: nn.Module) -> bool:
    return layer.conformer is not None or layer.self_attn.feat_scale


PLAN = Plan(
    family="Stable Audio",
    models=("comfy.ldm.audio.dit.AudioDiffusionTransformer",),
    joint=("tokens",),
    actions=(
        Split("transformer.layers.first", "x", "tokens"),
        LocalArgument("transformer.layers.*", "rotary_pos_emb", ("tokens",), _rope),
        LocalArgument("transformer.layers.*", "local_add_cond", ("tokens",), _added),
        AttentionScope("transformer.layers.*.self_attn", calls=(("tokens",), ("tokens",))),
        Gather("transformer.layers.last", ("tokens",)),
    ),
    passed=(Passed("transformer.layers.*", ("context", "global_cond", "mask", "context_mask")),),
    guards=(
        PATCHES,
        CONTROL,
        Guard(
            lambda arguments: any(map(_mixes_neighbours, arguments["self"].transformer.layers)),
            "layers that mix neighbouring tokens outside of attention",
        ),
    ),
)
