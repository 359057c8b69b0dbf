"""All-gather of tokens over the Ulysses and the ring axis: every rank gets the whole joint sequence.

B batch, L tokens of one rank, N tokens of all, C channels.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from ..compression.wire import Spec
from .axis import Axis
from .layout import TokenLayout
from .messenger import Incoming, Messenger, Outgoing

if TYPE_CHECKING:
    from ..compression.wire import Tag


def gather_tokens(
    x: Tensor, layout: TokenLayout, dim: int, *, ulysses: Axis, ring: Axis, messenger: Messenger, tag: Tag
) -> Tensor:
    """All-gathers the joint sequence along `dim` (from 1), in its own order, from the local tokens of every rank.

    All ranks get the same bits; with a raw wire those that were given. Each rank packs its tokens once: they go over
    the Ulysses axis, then the packed tokens of a Ulysses group over the ring axis. The mesh is regular: the shard index
    is ring.index * ulysses.size + ulysses.index, so the rank that holds a shard is known.
    """
    moved = x.movedim(dim, 1)
    x_BLC = moved.reshape(*moved.shape[:2], prod(moved.shape[2:]))
    own, shards = ring.index * ulysses.size + ulysses.index, range(layout.shards)
    gathered_BNC = x_BLC.new_empty(x_BLC.shape[0], layout.total, x_BLC.shape[2])
    places = gathered_BNC.split([layout.chunk(shard) for shard in shards], dim=1)
    tags = [replace(tag, exact_tokens=layout.text(shard)) for shard in shards]
    specs = [Spec.of([place], tag) for place, tag in zip(places, tags)]
    members = [rank - ulysses.ranks[ulysses.index] for rank in ulysses.ranks]
    ranks = [ring.ranks[shard // ulysses.size] + members[shard % ulysses.size] for shard in shards]

    payload, (own_BLC,) = messenger.wire.pack_shared([x_BLC], specs[own])
    places[own].copy_(own_BLC)
    held = {own: payload}
    deliveries = []
    for axis, step in ((ulysses, 1), (ring, ulysses.size)):
        if axis.size > 1:
            outgoing = [Outgoing(i, held[shard], specs[shard]) for i in axis.others() for shard in held]
            coming = [(i, shard + (i - axis.index) * step) for i in axis.others() for shard in held]
            incoming = [Incoming(i, ranks[shard], specs[shard]) for i, shard in coming]
            delivery = messenger.start(axis, outgoing, incoming, overlap=False)
            arrived = [shard for _, shard in coming]
            held |= dict(zip(arrived, delivery.finish()))
            deliveries.append((delivery, arrived))
    for delivery, arrived in deliveries:
        delivery.unpack([[places[shard]] for shard in arrived])
    if len(layout.lengths) > 1:
        gathered_BNC = layout.restored(gathered_BNC, 1)
    return gathered_BNC.view(*gathered_BNC.shape[:2], *moved.shape[2:]).movedim(1, dim)
