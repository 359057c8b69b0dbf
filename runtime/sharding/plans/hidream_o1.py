"""HiDream O1, a language model that draws.

Only the image tokens, with the token of the time step, are split. The text is a prefix that attends to itself alone:
every rank has all of it, and its keys, which the model keeps from step to step. The image attends to all keys. The
first call gets the text tokens in front of the others, later ones only their keys; where a patch looks at the tokens
between the layers, the model keeps none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan
from .guards import CONTROL, INSIDE


def _text(of_model: Mapping[str, Any], of_layer: Callable[[str], Any]) -> int:
    """The number of text tokens in front: none where their keys are given."""
    return 0 if of_layer("past_key_value") else of_model["ar_len"]


def _rope(freqs: tuple[Tensor, ...], shard: LocalShard) -> tuple[Tensor, ...]:
    """The rotary tables of the text in front, where it is, and of the local tokens."""
    front = freqs[0].shape[-2] - shard.total
    return tuple(torch.cat([x[..., :front, :], shard.tokens(x[..., front:, :], dim=-2)], -2) for x in freqs)


PLAN = Plan(
    family="HiDream O1",
    models=("comfy.ldm.hidream_o1.model.HiDreamO1Transformer",),
    joint=("image",),
    blocks=(Blocks("language_model.layers.*", (("x", ("image",), 0),), prefix=_text),),
    actions=(
        LocalArgument("language_model.layers.*", "freqs_cis", ("image",), _rope),
        AttentionScope("language_model.layers.*", prefix=True),
        Gather("language_model.layers.last", ("image",), item=0),
    ),
    passed=(Passed("language_model.layers.*", ("attention_mask", "optimized_attention", "past_key_value")),),
    guards=(INSIDE, CONTROL),
)
