"""Attention whose keys are a prefix that every rank has, followed by split tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import TokenLayout
from ..attention.sequence_attention import SequenceAttention
from ..compression.wire import Tag


def attend_with_prefix(
    attention: SequenceAttention,
    func: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: TokenLayout,
    tag: Tag,
    **kwargs: Any,
) -> Tensor:
    """Attention of the local queries to the prefix keys and those of all ranks; called like ComfyUI's.

    Each rank sends its shard of the prefix, which becomes one more segment. So that there are as many queries as keys,
    queries of zeros are added for it; their output is dropped.

    Args:
        k, v: all keys and values of the prefix, then the local ones. layout: the layout of the split tokens.
    """
    dim = 2 if kwargs.get("skip_reshape") else 1
    local = q.shape[dim]
    prefix = k.shape[dim] - local
    layout = layout.behind(prefix)
    first, last = layout.ranges(attention.shard_index)[0]
    length = last - first  # of this rank's shard of the prefix
    k, v = (torch.cat([x.narrow(dim, first, length), x.narrow(dim, prefix, local)], dim) for x in (k, v))
    none = q.new_zeros(*q.shape[:dim], length, *q.shape[dim + 1 :])
    out = attention(func, torch.cat([none, q], dim), k, v, layout=layout, tag=tag, **kwargs)
    return out.narrow(2 if kwargs.get("skip_output_reshape") else 1, length, local)
