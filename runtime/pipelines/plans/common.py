"""What the plans of diffusers' transformers share: the guard of attention arguments, and local rotary embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...sharding.local_shard import LocalShard
from ...sharding.plan import Guard

TRANSFORMERS = "diffusers.models.transformers"
_ATTENTION_ARGUMENTS = ("joint_attention_kwargs", "attention_kwargs", "cross_attention_kwargs")


def _for_attention(arguments: Mapping[str, Any]) -> str:
    given = (arguments.get(name) or {} for name in _ATTENTION_ARGUMENTS)
    names = sorted({name for each in given for name in each} - {"scale"})
    return f"arguments for its attention ({', '.join(names)})" if names else ""


ATTENTION_ARGUMENTS = Guard(_for_attention)
"""Refuses what callers hand to attention, such as an IP-Adapter's tokens; "scale" is that of LoRAs."""


def rotary(cos_sin: tuple[Tensor, ...], shard: LocalShard) -> tuple[Tensor, ...]:
    """The local tokens of rotary embeddings (cos, sin), each (N, D)."""
    return tuple(shard.tokens(x, dim=0) for x in cos_sin)


def batched_rotary(cos_sin: tuple[Tensor, ...], shard: LocalShard) -> tuple[Tensor, ...]:
    """The local tokens of rotary embeddings (cos, sin), each (B|1, N, ...)."""
    return tuple(shard.tokens(x) for x in cos_sin)
