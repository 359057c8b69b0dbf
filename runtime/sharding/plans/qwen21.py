"""Qwen-Image 2.1, text to picture and editing.

It is not in ComfyUI 0.30: tried on comfy/ldm/qwen_image21/model.py of commit 08f68f0919d2, over ComfyUI 0.30.

The picture is split. The text and the reference pictures in front of it, the prefix, attend only to what is before
them: every rank has all of it. From the second step on the model keeps the prefix's keys and values. In the first step
it runs each block for the prefix by itself, which is left unchanged. Ranks need not agree on whether they keep the
keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Plan, Unsplit
from .guards import CONTROL, IN_FRONT_OF_ATTENTION, INSIDE


def _prefix(of_model: Mapping[str, Any], of_block: Callable[[str], Any]) -> int:
    """The number of prefix tokens in front of the picture: none where their keys are kept."""
    return of_block("prefix_len")


def _rope(pe: Tensor, shard: LocalShard) -> Tensor:
    """The rotary table of the prefix, where it is present, and of the local tokens."""
    front = pe.shape[1] - shard.total
    return torch.cat([pe[:, :front], shard.tokens(pe[:, front:])], 1)


PLAN = Plan(
    family="Qwen-Image 2.1",
    models=("comfy.ldm.qwen_image21.model.QwenImage21Transformer2DModel",),
    joint=("image",),
    blocks=(Blocks("transformer_blocks.*", (("x", ("image",), None),), prefix=_prefix),),
    actions=(
        Unsplit("transformer_blocks.*", lambda given: given("x").shape[1] == given("prefix_len")),
        LocalArgument("transformer_blocks.*", "pe", ("image",), _rope),
        AttentionScope("transformer_blocks.*.attn", prefix=True),
        Gather("transformer_blocks.last", ("image",)),
    ),
    guards=(INSIDE, CONTROL, IN_FRONT_OF_ATTENTION),
)
