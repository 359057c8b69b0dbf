"""Gathering K and V, or tokens, from all ranks of an axis.

B batch, L tokens of one rank, N tokens of all, C channels (heads x head dim), P ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .axis import Axis, exchange
from .layout import TokenLayout

if TYPE_CHECKING:
    from ..compression.wire import Tag, Wire
    from ..report.ledger import Ledger


def gather_kv(
    tensors_BLC: Sequence[Tensor], axis: Axis, *, chunks: Sequence[int], wire: Wire, tags: Sequence[Tag], ledger: Ledger
) -> list[Tensor]:
    """Every rank's tensors, each concatenated over the ranks in axis order: (B, N, C).

    Args:
        tensors_BLC: what this rank gives, K and V; they stay exact here whatever the wire does to the copies sent.
        chunks: L of every rank, by axis index. tags: the message of every rank, by axis index.
    """
    payload = wire.pack(tensors_BLC, tags[axis.index])
    values = sum(x.numel() for x in tensors_BLC)
    ledger.sent(payload.numel() * (axis.size - 1), 2 * values * (axis.size - 1))
    shapes = {i: [(x.shape[0], chunks[i], x.shape[2]) for x in tensors_BLC] for i in axis.others()}
    dtype = tensors_BLC[0].dtype
    received = {i: payload.new_empty(wire.packed_size(axis.ranks[i], shapes[i], dtype, tags[i])) for i in axis.others()}
    exchange(axis, dict.fromkeys(axis.others(), payload), received, ledger)
    by_rank = {i: wire.unpack(axis.ranks[i], received[i], shapes[i], dtype, tags[i]) for i in axis.others()}
    by_rank[axis.index] = list(tensors_BLC)
    return [torch.cat([by_rank[i][n] for i in range(axis.size)], dim=1) for n in range(len(tensors_BLC))]


def gather_tokens(x: Tensor, layout: TokenLayout, dim: int, *, ulysses: Axis, ring: Axis, ledger: Ledger) -> Tensor:
    """The whole joint sequence along `dim`, in its own order and bit-exact, from what every rank holds of it.

    First over the Ulysses axis, then over the ring axis: part = ring.index * ulysses.size + ulysses.index.
    """
    first = ring.index * ulysses.size
    members = [layout.chunk(first + u) for u in range(ulysses.size)]
    x = _gather_raw(x, dim, ulysses, members, ledger)
    groups = [layout.chunk(r, group=ulysses.size) for r in range(ring.size)]
    x = _gather_raw(x, dim, ring, groups, ledger)
    return x if len(layout.lengths) == 1 else x.index_select(dim, layout.restore_order().to(x.device))


def _gather_raw(x: Tensor, dim: int, axis: Axis, sizes: Sequence[int], ledger: Ledger) -> Tensor:
    if axis.size == 1:
        return x
    x = x.contiguous()
    received = {i: x.new_empty([*x.shape[:dim], sizes[i], *x.shape[dim + 1 :]]) for i in axis.others()}
    ledger.sent(x.numel() * x.element_size() * (axis.size - 1), 2 * x.numel() * (axis.size - 1))
    exchange(axis, dict.fromkeys(axis.others(), x), received, ledger)
    return torch.cat([x if i == axis.index else received[i] for i in range(axis.size)], dim=dim)
