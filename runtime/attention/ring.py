"""Ring attention: K and V travel from rank to rank while attention to the chunk at hand is computed.

Liu, Zaharia, Abbeel: Ring Attention with Blockwise Transformers, 2023 (arXiv:2310.01889).
B batch, H heads, L queries of this rank, D head dim, C = K or V heads x D.
A chunk is packed once, by the rank it belongs to; the others pass the same bytes on and unpack them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .axis import Axis, start_exchange
from .local import attention_with_lse, merge

if TYPE_CHECKING:
    from ..compression.wire import Tag, Wire
    from ..report.ledger import Ledger


def ring_attention(
    q_BHLD: Tensor,
    k_BLC: Tensor,
    v_BLC: Tensor,
    axis: Axis,
    *,
    scale: float,
    chunks: Sequence[int],
    wire: Wire,
    tags: Sequence[Tag],
    ledger: Ledger,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of this rank's queries to the keys of all ranks, (B, H, L, D).

    Args:
        k_BLC, v_BLC: this rank's K and V, with heads of D channels; used as they are, never through the wire.
        chunks: tokens of every rank, by axis index. tags: the message of every rank, by axis index.
        mask: broadcasting to (B, H, L, keys of all ranks in axis order).
    """
    head_dim = q_BHLD.shape[3]
    following, preceding = (axis.index + 1) % axis.size, (axis.index - 1) % axis.size
    columns = [slice(sum(chunks[:i]), sum(chunks[: i + 1])) for i in range(axis.size)]
    payload = wire.pack([k_BLC, v_BLC], tags[axis.index])
    kv = [k_BLC, v_BLC]
    out = lse = None
    for hop in range(axis.size):
        source, arriving = (axis.index - hop) % axis.size, (axis.index - hop - 1) % axis.size
        shapes = [(x.shape[0], chunks[source], x.shape[2]) for x in (k_BLC, v_BLC)]
        last = hop == axis.size - 1
        if not last:
            next_shapes = [(x.shape[0], chunks[arriving], x.shape[2]) for x in (k_BLC, v_BLC)]
            size = wire.packed_size(axis.ranks[arriving], next_shapes, k_BLC.dtype, tags[arriving])
            arrived = payload.new_empty(size)
            transfer = start_exchange(axis, {following: payload}, {preceding: arrived})
            ledger.sent(payload.numel(), 2 * sum(b * n * c for b, n, c in shapes))
        if hop:
            kv = wire.unpack(axis.ranks[source], payload, shapes, k_BLC.dtype, tags[source])
        k_BHND, v_BHND = (x.unflatten(2, (-1, head_dim)).transpose(1, 2) for x in kv)
        seen = None if mask is None else mask[..., columns[source]]
        partial, partial_lse = attention_with_lse(q_BHLD, k_BHND, v_BHND, scale, seen)
        partial = partial.to(partial_lse.dtype)
        out, lse = (partial, partial_lse) if out is None else merge(out, lse, partial, partial_lse)
        if not last:
            transfer.finish(ledger)
            payload = arrived
    return out.to(q_BHLD.dtype)
