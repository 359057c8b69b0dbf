"""ACE-Step 1.5.

Every other layer attends to a window of tokens, whose mask the model makes for the tokens it sees; it is made for all
tokens instead. Cross-attention sees all conditions with local queries. The model calls ComfyUI's attention without
transformer_options, so it is met in the module it calls it from.

ACE-Step 1 has no plan: its linear attention is a sum over all tokens, made without ComfyUI's attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..own import Own
from ..plan import AttentionScope, Gather, Localise, Plan, Split
from .guards import CONTROL, PATCHES


def _rope(cos_sin: tuple[Tensor, Tensor], own: Own) -> tuple[Tensor, ...]:
    return tuple(own.tokens(x, dim=0) for x in cos_sin)


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
    actions=(
        Split("decoder.layers.first", "hidden_states", "audio"),
        Localise("decoder.layers.*", "position_embeddings", ("audio",), _rope),
        AttentionScope(
            "decoder.layers.*.self_attn", calls=(("audio",),), caller="comfy.ldm.ace.ace_step15", mask=_window
        ),
        Gather("decoder.layers.last", ("audio",)),
    ),
    guards=(PATCHES, CONTROL),
)
