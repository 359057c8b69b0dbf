"""LTX-Video, with the image model of LTX 2.5, which reads its text otherwise and is not in ComfyUI 0.30.

Only video tokens are split; cross-attention has local queries and the whole text. There is one time step for all tokens
or one per token (image to video, keyframes). Keyframes are more video tokens. The model modulates after its blocks with
a time step per token, so the tokens are gathered there. A guide with a strength of its own is masked by position: the
mask, which the model keeps in parts for each kind of query, is made for all tokens instead, once per forward.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan
from .guards import CONTROL, INSIDE


def guide_mask(mask: Any, shard: LocalShard) -> Any:
    """ComfyUI's GuideAttentionMask as one in which all local queries count as a guide's, so attention is called once.

    Its mask is (1, 1, N, N) for the N tokens of all ranks.
    """
    first, last = mask.guide_start, mask.guide_start + mask.tracked_count
    whole = mask.noisy_mask.repeat(1, 1, shard.total, 1)
    whole[:, :, first:last] = mask.tracked_mask
    whole[:, :, last:] = 0
    local = object.__new__(type(mask))
    local.guide_start, local.tracked_count = 0, shard.lengths[0]
    local.noisy_mask, local.tracked_mask = mask.noisy_mask, whole
    return local


# Spatio-temporal guidance: self-attention of the chosen blocks returns its values unchanged (ComfyUI 0.33 and later).
STG = "stg_skip_self_attn"
GUIDE = LocalArgument("transformer_blocks.*", "self_attention_mask", ("video",), guide_mask)


def rope(pe: tuple[Tensor, bool], shard: LocalShard) -> tuple[Tensor, bool]:
    """The rotary table of the local tokens; the flag says how it is laid out."""
    return shard.tokens(pe[0]), pe[1]


PLAN = Plan(
    family="LTX-Video",
    models=("comfy.ldm.lightricks.model.LTXVModel", "comfy.ldm.lightricks.model.LTXVImageModel"),
    joint=("video",),
    blocks=(Blocks("transformer_blocks.*", (("x", ("video",), None),)),),
    actions=(
        LocalArgument("transformer_blocks.*", "pe", ("video",), rope),
        LocalArgument("transformer_blocks.*", "timestep", ("video",), lambda t, shard: shard.tokens(t)),
        GUIDE,
        AttentionScope("transformer_blocks.*.attn1", skipped_with=STG),
        Gather("transformer_blocks.last", ("video",)),
    ),
    passed=(Passed("transformer_blocks.*", ("context", "attention_mask", "prompt_timestep")),),
    guards=(INSIDE, CONTROL),
)
