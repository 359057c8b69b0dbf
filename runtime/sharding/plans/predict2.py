"""Cosmos Predict2 and Anima, image and video.

The blocks keep tokens on a grid of time, height and width. It is flattened with the local tokens along time, and a time
step per frame becomes one per token. Cross-attention has local queries and the whole text.
"""

from __future__ import annotations

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan
from .guards import CONTROL, INSIDE


def _per_token(x: Tensor, shard: LocalShard) -> Tensor:
    return shard.repeated(x)


def _grid(x: Tensor, shard: LocalShard) -> Tensor:
    return shard.tokens(x.flatten(1, 3))[:, :, None, None]


PLAN = Plan(
    family="Cosmos Predict2",
    models=("comfy.ldm.cosmos.predict2.MiniTrainDIT", "comfy.ldm.anima.model.Anima"),
    joint=("video",),
    blocks=(Blocks("blocks.*", (("x_B_T_H_W_D", ("video",), None),), grid=3),),
    actions=(
        LocalArgument("blocks.*", "emb_B_T_D", ("video",), _per_token),
        LocalArgument("blocks.*", "adaln_lora_B_T_3D", ("video",), _per_token),
        LocalArgument("blocks.*", "rope_emb_L_1_1_D", ("video",), lambda x, shard: shard.tokens(x)),
        LocalArgument("blocks.*", "extra_per_block_pos_emb", ("video",), _grid),
        LocalArgument("final_layer", "emb_B_T_D", ("video",), _per_token, outside=True),
        LocalArgument("final_layer", "adaln_lora_B_T_3D", ("video",), _per_token, outside=True),
        AttentionScope("blocks.*.self_attn"),
        Gather("final_layer", ("video",)),
    ),
    passed=(
        Passed("blocks.*", ("crossattn_emb",)),
        Passed("final_layer", ("x_B_T_H_W_D",)),
    ),
    guards=(INSIDE, CONTROL),
)
