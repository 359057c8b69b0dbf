"""Qwen-Image, Qwen-Image-Edit and Qwen-Image-Layered.

The text is joined in front of the image; their rotary embeddings come apart. The blocks would make a mask as long as
the local text, so the text mask is taken out of their arguments, and attention gets one for the whole sequence. Images
to be edited are more image tokens; `modulate_index` has an entry for each image token.
"""

from __future__ import annotations

from torch import Tensor

from ...sharding.local_shard import LocalShard
from ...sharding.plan import AttentionScope, ControlResiduals, Gather, KeyMask, LocalArgument, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import ATTENTION_ARGUMENTS, TRANSFORMERS


def _rotary(embeddings: tuple[Tensor, Tensor], shard: LocalShard) -> tuple[Tensor, Tensor]:
    """The local tokens of the embeddings of the image (N, D) and of the text (N, D)."""
    image, text = embeddings
    return shard.layout.split(image, 1, 0, shard.index), shard.layout.split(text, 0, 0, shard.index)


def _modulated(index: Tensor, shard: LocalShard) -> Tensor:
    return shard.tokens(index)


PLAN = Plan(
    family="Qwen-Image",
    models=(f"{TRANSFORMERS}.transformer_qwenimage.QwenImageTransformer2DModel",),
    library=DIFFUSERS,
    joint=("text", "image"),
    actions=(
        ControlResiduals("", "controlnet_block_samples", "image"),
        Split("transformer_blocks.first", "encoder_hidden_states", "text"),
        Split("transformer_blocks.first", "hidden_states", "image"),
        LocalArgument("transformer_blocks.*", "image_rotary_emb", ("text", "image"), _rotary),
        LocalArgument("transformer_blocks.*", "modulate_index", ("image",), _modulated),
        KeyMask("transformer_blocks.*", "encoder_hidden_states_mask", "text"),
        AttentionScope("transformer_blocks.*.attn"),
        Gather("proj_out", ("image",)),
    ),
    passed=(Passed("transformer_blocks.*", ("temb", "joint_attention_kwargs")),),
    guards=(ATTENTION_ARGUMENTS,),
)
