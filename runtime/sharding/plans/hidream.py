"""HiDream I1 and E1.

Every block gets other text tokens: T5, the last Llama layer, and its own Llama layer, joined after the image. So the
text is split before the model runs, and the model counts and joins local text tokens. Its rotary table then has all
image tokens and the local text tokens. The experts work on each token alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Gather, LocalArgument, Passed, Plan, Split
from .guards import CONTROL, PATCHES


def _rope(pe: Tensor, shard: LocalShard) -> Tensor:
    image = shard.total
    return torch.cat([shard.tokens(pe.narrow(1, 0, image)), pe.narrow(1, image, pe.shape[1] - image)], dim=1)


PLAN = Plan(
    family="HiDream",
    models=("comfy.ldm.hidream.model.HiDreamImageTransformer2DModel",),
    joint=("image", "t5", "llama", "llama"),
    actions=(
        Split("", "context", "t5"),
        Split("", "encoder_hidden_states_llama3", "llama", dim=2),
        Split("double_stream_blocks.first", "image_tokens", "image"),
        LocalArgument("double_stream_blocks.*", "rope", ("image",), _rope),
        LocalArgument("single_stream_blocks.*", "rope", ("image",), _rope),
        AttentionScope("double_stream_blocks.*"),
        AttentionScope("single_stream_blocks.*"),
        Gather("final_layer", ("image",)),
    ),
    passed=(
        Passed("double_stream_blocks.*", ("image_tokens_masks", "text_tokens", "adaln_input")),
        Passed("single_stream_blocks.*", ("image_tokens", "image_tokens_masks", "text_tokens", "adaln_input")),
        Passed("final_layer", ("x", "vec")),
    ),
    guards=(PATCHES, CONTROL),
)
