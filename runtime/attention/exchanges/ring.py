"""Ring attention: K and V travel from rank to rank while attention to the current shard is computed.

Liu, Zaharia, Abbeel: Ring Attention with Blockwise Transformers, 2023 (arXiv:2310.01889).
B batch, H heads, L queries of this rank, N keys of all ranks, D head dim.
Each shard is packed once, by the rank that owns it; the others pass the same bytes on and unpack them.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import accumulate

from torch import Tensor

from ..local import attention_with_lse, merge
from ..messenger import Incoming, Outgoing
from .exchange import Attention, Exchange


class Ring(Exchange):
    """As many hops as there are other ranks, each under way while the shard of the hop before is computed.

    Partial results are merged by their log-sum-exp, so torch's own kernels do the arithmetic.
    """

    name = "ring"
    tooltip = "chunk by chunk while computing, with torch's attention kernels; needs less memory."
    place = 20
    keeps_function = False

    def attend(self, attention: Attention) -> Generator[None, None, Tensor]:
        """See `Exchange.attend`."""
        yield from ()  # hops overlap with the attention itself, so other head chunks need no turn
        return ring_attention(attention)


def ring_attention(attention: Attention) -> Tensor:
    """Attention of this rank's queries to the keys of all ranks, (B, L, H, D); its own K and V are used as they are."""
    axis, specs, kv_BLHD = attention.axis, attention.specs, attention.kv_BLHD
    lengths = [spec.shapes[0][1] for spec in specs]
    following, preceding = (axis.index + 1) % axis.size, (axis.index - 1) % axis.size
    ends = list(accumulate(lengths))
    kv, q_BHLD, out, lse = kv_BLHD, attention.q_BLHD.transpose(1, 2), None, None
    payload = attention.messenger.wire.pack([x.flatten(2) for x in kv_BLHD], specs[axis.index])
    arrived = None
    for hop in range(axis.size):
        source, arriving = (axis.index - hop) % axis.size, (axis.index - hop - 1) % axis.size
        under_way = None
        if hop < axis.size - 1:
            outgoing = [Outgoing(following, payload, specs[source])]
            incoming = [Incoming(preceding, axis.ranks[arriving], specs[arriving])]
            under_way = attention.messenger.start(axis, outgoing, incoming)
        if arrived is not None:
            kv = [x.new_empty(len(x), lengths[source], *x.shape[2:]) for x in kv_BLHD]
            arrived.unpack([[x.flatten(2) for x in kv]])
        columns = slice(ends[source] - lengths[source], ends[source])
        mask = None if attention.mask is None else attention.mask[..., columns]
        partial, partial_lse = attention_with_lse(q_BHLD, *(x.transpose(1, 2) for x in kv), attention.scale, mask)
        partial = partial.to(partial_lse.dtype)
        out, lse = (partial, partial_lse) if out is None else merge(out, lse, partial, partial_lse)
        if under_way is not None:
            (payload,) = under_way.finish()
        arrived = under_way
    return out.to(attention.q_BLHD.dtype).transpose(1, 2)


EXCHANGE = Ring
