"""Ring attention: K and V travel from rank to rank while attention to the current chunk is computed.

Liu, Zaharia, Abbeel: Ring Attention with Blockwise Transformers, 2023 (arXiv:2310.01889).
B batch, H heads, L queries of this rank, N keys of all ranks, D head dim.
Each chunk is packed once, by the rank that owns it; the others pass the same bytes on and unpack them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .axis import Axis
from .local import attention_with_lse, merge
from .messenger import Incoming, Messenger, Outgoing

if TYPE_CHECKING:
    from ..compression.wire import Tag


def ring_attention(
    q_BLHD: Tensor,
    kv_BLHD: Sequence[Tensor],
    axis: Axis,
    *,
    scale: float,
    chunks: Sequence[int],
    tags: Sequence[Tag],
    messenger: Messenger,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of this rank's queries to the keys of all ranks, (B, L, H, D).

    Args:
        kv_BLHD: this rank's K and V, which may have fewer heads; used as they are, never through the wire.
        chunks: tokens of every rank, by axis index. tags: the tag of every rank's message, by axis index.
        mask: broadcasting to (B, H, L, N), keys in axis order.
    """
    following, preceding = (axis.index + 1) % axis.size, (axis.index - 1) % axis.size
    columns = [slice(sum(chunks[:i]), sum(chunks[: i + 1])) for i in range(axis.size)]
    kv, payload = list(kv_BLHD), messenger.wire.pack([x.flatten(2) for x in kv_BLHD], tags[axis.index])
    q_BHLD, out, lse = q_BLHD.transpose(1, 2), None, None
    for hop in range(axis.size):
        source, arriving = (axis.index - hop) % axis.size, (axis.index - hop - 1) % axis.size
        held, coming = ([(len(x), chunks[i], *x.shape[2:]) for x in kv_BLHD] for i in (source, arriving))
        last = hop == axis.size - 1
        if not last:
            shapes = [(batch, tokens, heads * dim) for batch, tokens, heads, dim in coming]
            message = Incoming(preceding, axis.ranks[arriving], shapes, kv[0].dtype, tags[arriving])
            values = sum(batch * tokens * heads * dim for batch, tokens, heads, dim in held)
            delivery = messenger.start(axis, [Outgoing(following, payload, values)], [message])
        if hop:
            kv = [x.new_empty(shape) for x, shape in zip(kv_BLHD, held)]
            messenger.wire.unpack(axis.ranks[source], payload, [x.flatten(2) for x in kv], tags[source])
        seen = None if mask is None else mask[..., columns[source]]
        partial, partial_lse = attention_with_lse(q_BHLD, *(x.transpose(1, 2) for x in kv), scale, seen)
        partial = partial.to(partial_lse.dtype)
        out, lse = (partial, partial_lse) if out is None else merge(out, lse, partial, partial_lse)
        if not last:
            (payload,) = delivery.finish()
    return out.to(q_BLHD.dtype).transpose(1, 2)
