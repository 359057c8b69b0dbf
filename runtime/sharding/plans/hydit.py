"""HunyuanDiT.

Only image tokens are split; cross-attention has local queries and both texts. Skips from the first blocks to the last
ones are tokens, too: local ones, but all tokens where a patch looks between the blocks. A ControlNet adds to the skips,
and its control is cut. The model calls ComfyUI's attention without transformer_options, so we patch the attention
function its module imports.
"""

from __future__ import annotations

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, ControlResiduals, Gather, LocalArgument, Passed, Plan
from .guards import INSIDE


def _rope(cos_sin: tuple[Tensor, Tensor], shard: LocalShard) -> tuple[Tensor, ...]:
    return tuple(shard.tokens(x, dim=0) for x in cos_sin)


def handed_on(skip: Tensor, shard: LocalShard) -> Tensor:
    """The local tokens of a skip from an earlier block; it has only those if nothing looks between the blocks."""
    return shard.tokens(skip) if shard.holds_all else skip


PLAN = Plan(
    family="HunyuanDiT",
    models=("comfy.ldm.hydit.models.HunYuanDiT",),
    joint=("image",),
    blocks=(Blocks("blocks.*", (("x", ("image",), None),)),),
    actions=(
        ControlResiduals("", "control", "image"),
        LocalArgument("blocks.*", "freq_cis_img", ("image",), _rope),
        LocalArgument("blocks.*", "skip", ("image",), handed_on),
        AttentionScope("blocks.*.attn1", caller="comfy.ldm.hydit.attn_layers"),
        Gather("final_layer", ("image",)),
    ),
    passed=(
        Passed("blocks.*", ("c", "text_states")),
        Passed("final_layer", ("x", "c")),
    ),
    guards=(INSIDE,),
)
