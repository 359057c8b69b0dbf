"""Attention over tokens that every rank has, split over the ranks by heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .padded_layout import PaddedLayout


def share_heads(
    function: Callable[..., Tensor],
    shards: int,
    shard: int,
    gather: Callable[[Tensor, PaddedLayout], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    **kwargs: Any,
) -> Tensor:
    """The function's output for all heads, of which each rank computes a chunk.

    Args:
        function: called like ComfyUI's attention, without a mask.
        gather: turns (B, N, local heads, D) into the tensor of all heads, the same on each rank.
        q, k, v: (B, N, heads x D).
    """
    layout = PaddedLayout((heads,), shards)
    q, k, v = (layout.split(x.unflatten(2, (heads, -1)), 0, 2, shard).flatten(2) for x in (q, k, v))
    chunk = function(q, k, v, heads=layout.chunk(shard), **kwargs)
    return gather(chunk.unflatten(2, (layout.chunk(shard), -1)), layout).flatten(2)
