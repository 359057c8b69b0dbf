"""ACE-Step 1 and 1.5.

1.5: every other layer attends to a window of tokens. The model makes the mask of that window for the tokens it sees, so
we replace it with one for all tokens. Cross-attention has local queries and all conditions. The model calls ComfyUI's
attention without transformer_options, so we patch the attention function its module imports.

1: self-attention is linear and sums over all tokens without ComfyUI's attention: it is replicated on all tokens, nearly
a third of the work. The convolution after it needs a halo of one token on either side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, Guard, Halo, LocalArgument, Passed, Plan, Replicate
from .guards import CONTROL, INSIDE


def _rope(cos_sin: tuple[Tensor, Tensor], shard: LocalShard) -> tuple[Tensor, ...]:
    return tuple(shard.tokens(x, dim=0) for x in cos_sin)


def _window(module: nn.Module, mask: Tensor, total: int) -> Tensor:
    places = torch.arange(total, device=mask.device)
    far = (places[:, None] - places[None]).abs() > module.sliding_window
    return torch.zeros(total, total, dtype=mask.dtype, device=mask.device).masked_fill_(
        far, torch.finfo(mask.dtype).min
    )


PLAN = Plan(
    family="ACE-Step 1.5",
    models=("comfy.ldm.ace.ace_step15.AceStepConditionGenerationModel",),
    joint=("audio",),
    blocks=(Blocks("decoder.layers.*", (("hidden_states", ("audio",), None),)),),
    actions=(
        LocalArgument("decoder.layers.*", "position_embeddings", ("audio",), _rope),
        AttentionScope("decoder.layers.*.self_attn", caller="comfy.ldm.ace.ace_step15", mask=_window),
        Gather("decoder.layers.last", ("audio",)),
    ),
    passed=(Passed("decoder.layers.*", ("temb", "encoder_hidden_states", "attention_mask", "encoder_attention_mask")),),
    guards=(INSIDE, CONTROL),
)

LINEAR = Plan(
    family="ACE-Step 1",
    models=("comfy.ldm.ace.model.ACEStepTransformer2DModel",),
    joint=("audio",),
    blocks=(Blocks("transformer_blocks.*", (("hidden_states", ("audio",), None),)),),
    actions=(
        Replicate("transformer_blocks.*.attn", "hidden_states", "audio", item=0),
        LocalArgument("transformer_blocks.*.cross_attn", "rotary_freqs_cis", ("audio",), _rope),
        Halo("transformer_blocks.*.ff", "x", "audio"),
        Gather("transformer_blocks.last", ("audio",)),
    ),
    passed=(
        Passed(
            "transformer_blocks.*",
            (
                "encoder_hidden_states",
                "attention_mask",
                "encoder_attention_mask",
                "rotary_freqs_cis",
                "rotary_freqs_cis_cross",
                "temb",
            ),
        ),
        Passed(
            "transformer_blocks.*.attn",
            (
                "encoder_hidden_states",
                "attention_mask",
                "encoder_attention_mask",
                "rotary_freqs_cis",
                "rotary_freqs_cis_cross",
            ),
        ),
        Passed(
            "transformer_blocks.*.cross_attn",
            (
                "hidden_states",
                "encoder_hidden_states",
                "attention_mask",
                "encoder_attention_mask",
                "rotary_freqs_cis_cross",
            ),
        ),
    ),
    guards=(
        INSIDE,
        CONTROL,
        Guard(lambda arguments: arguments.get("attention_mask") is not None, "a mask of its sound"),
    ),
)
