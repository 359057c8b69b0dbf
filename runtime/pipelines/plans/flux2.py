"""Flux.2: text to image, with reference images as more image tokens.

The text is joined in front of the image. Before its last layers the model drops as many tokens as it was given of the
text, so all is split where it enters the model; positions are embedded after that. A cache of the keys of reference
images, which some pipelines fill and use, is refused.
"""

from __future__ import annotations

from torch import Tensor

from ...sharding.local_shard import LocalShard
from ...sharding.plan import AttentionScope, Gather, Guard, LocalArgument, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import ATTENTION_ARGUMENTS, TRANSFORMERS


def _positions(ids: Tensor, shard: LocalShard) -> Tensor:
    """The local tokens of positions (N, axes) or (B, N, axes)."""
    return shard.tokens(ids, dim=ids.ndim - 2)


_CACHE = Guard(
    lambda arguments: arguments.get("kv_cache_mode") is not None,
    "a cache of the keys of reference images (kv_cache_mode)",
)
_PASSED = ("hidden_states", "encoder_hidden_states", "image_rotary_emb", "joint_attention_kwargs")

PLAN = Plan(
    family="Flux.2",
    models=(f"{TRANSFORMERS}.transformer_flux2.Flux2Transformer2DModel",),
    library=DIFFUSERS,
    joint=("text", "image"),
    actions=(
        Split("", "encoder_hidden_states", "text"),
        Split("", "hidden_states", "image"),
        LocalArgument("", "txt_ids", ("text",), _positions),
        LocalArgument("", "img_ids", ("image",), _positions),
        AttentionScope("transformer_blocks.*.attn"),
        AttentionScope("single_transformer_blocks.*.attn"),
        Gather("proj_out", ("image",)),
    ),
    passed=(
        Passed("transformer_blocks.*", ("temb_mod_img", "temb_mod_txt", *_PASSED)),
        Passed("single_transformer_blocks.*", ("temb_mod", "split_hidden_states", "text_seq_len", *_PASSED)),
    ),
    guards=(ATTENTION_ARGUMENTS, _CACHE),
)
