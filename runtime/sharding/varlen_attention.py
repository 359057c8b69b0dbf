"""Variable-length attention within many sequences, such as the windows of a video, divided over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import TokenLayout


def share_sequences(
    function: Callable[..., Tensor],
    shards: int,
    shard: int,
    gather: Callable[[Tensor, TokenLayout], Tensor],
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Sequence[int],
    cu_seqlens_k: Sequence[int],
    **kwargs: Any,
) -> Tensor:
    """The function's output for all sequences; each rank computes those whose middle lies in its shard of the tokens.

    Args:
        function: takes these keyword arguments, like SeedVR2's.
        gather: concatenates the tokens of all ranks, equally many of each.
        q, k, v: (tokens of all sequences, H, D).
        cu_seqlens_q, cu_seqlens_k: where each begins, and where the last ends.
    """
    middles = [(first + last) / 2 for first, last in pairwise(cu_seqlens_q)]
    firsts = [sum(middle * shards < cu_seqlens_q[-1] * p for middle in middles) for p in range(shards + 1)]
    spans = [(cu_seqlens_q[first], cu_seqlens_q[last]) for first, last in pairwise(firsts)]
    longest = max(last - first for first, last in spans)
    local = slice(firsts[shard], firsts[shard + 1] + 1)
    out = q.new_zeros(longest, *q.shape[1:])
    ends_q, ends_k = list(cu_seqlens_q[local]), list(cu_seqlens_k[local])
    if len(ends_q) > 1:
        out[: ends_q[-1] - ends_q[0]] = function(
            q=q[ends_q[0] : ends_q[-1]],
            k=k[ends_k[0] : ends_k[-1]],
            v=v[ends_k[0] : ends_k[-1]],
            cu_seqlens_q=[end - ends_q[0] for end in ends_q],
            cu_seqlens_k=[end - ends_k[0] for end in ends_k],
            **kwargs,
        )
    everyones = gather(out, TokenLayout((longest * shards,), shards))
    return torch.cat([everyones[p * longest :][: last - first] for p, (first, last) in enumerate(spans)])
