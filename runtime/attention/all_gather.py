"""All-gather of K and V over one mesh axis, and of tokens over the Ulysses and the ring axis.

B batch, L tokens of one rank, N tokens of all, H heads, D head dim, C channels, P shards of the sequence.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from .axis import Axis
from .layout import TokenLayout
from .messenger import Delivery, Incoming, Messenger, Outgoing

if TYPE_CHECKING:
    from ..compression.wire import Tag


class Gathered:
    """Buffers for the tensors of all ranks of an axis, in axis order: `tensors` (B, N, H, D), from (B, L, H, D) each.

    Args:
        chunks: L of every rank, by axis index. tags: the tag of every rank's message, by axis index.
    """

    def __init__(self, like_BLHD: Sequence[Tensor], axis: Axis, chunks: Sequence[int], tags: Sequence[Tag]) -> None:
        self.tensors = [x.new_empty(x.shape[0], sum(chunks), *x.shape[2:]) for x in like_BLHD]
        self._axis, self._chunks, self._tags = axis, chunks, tags

    def send(self, tensors_BLHD: Sequence[Tensor], messenger: Messenger, overlap: bool | None = None) -> Delivery:
        """Copies this rank's tensors into their slots, where they stay exact, and sends them to all others."""
        axis = self._axis
        own = self._place(axis.index)
        for place_BLC, x_BLHD in zip(own, tensors_BLHD):
            place_BLC.unflatten(2, x_BLHD.shape[2:]).copy_(x_BLHD)
        payload = messenger.wire.pack(own, self._tags[axis.index])
        outgoing = [Outgoing(i, payload, sum(x.numel() for x in own)) for i in axis.others()]
        incoming = [
            Incoming(i, axis.ranks[i], [tuple(x.shape) for x in self._place(i)], own[0].dtype, self._tags[i])
            for i in axis.others()
        ]
        return messenger.start(axis, outgoing, incoming, overlap)

    def receive(self, delivery: Delivery) -> None:
        """Unpacks the others' tensors into their slots."""
        delivery.unpack([self._place(i) for i in self._axis.others()])

    def _place(self, index: int) -> list[Tensor]:
        """The slots of a rank's tensors: views (B, L, C)."""
        start = sum(self._chunks[:index])
        return [x_BNHD.flatten(2).narrow(1, start, self._chunks[index]) for x_BNHD in self.tensors]


def gather_kv(
    tensors_BLHD: Sequence[Tensor], axis: Axis, *, chunks: Sequence[int], tags: Sequence[Tag], messenger: Messenger
) -> Generator[None, None, list[Tensor]]:
    """The tensors of all ranks, concatenated in axis order: (B, N, H, D).

    Yields when all messages are under way. `tensors_BLHD` are this rank's K and V; see `Gathered` for the other
    arguments.
    """
    gathered = Gathered(tensors_BLHD, axis, chunks, tags)
    delivery = gathered.send(tensors_BLHD, messenger)
    yield
    gathered.receive(delivery)
    return gathered.tensors


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
    part = ring.index * ulysses.size + ulysses.index
    sizes = [layout.chunk(p) for p in range(layout.parts)]
    tags = [replace(tag, exact_tokens=layout.text(p)) for p in range(layout.parts)]
    gathered_BNC = x_BLC.new_empty(x_BLC.shape[0], layout.total, x_BLC.shape[2])
    places = gathered_BNC.split(sizes, dim=1)

    def message(via: int, p: int) -> Incoming:
        rank = ring.ranks[p // ulysses.size] + ulysses.ranks[p % ulysses.size] - ulysses.ranks[ulysses.index]
        return Incoming(via, rank, [tuple(places[p].shape)], x.dtype, tags[p])

    payload, (own_BLC,) = messenger.wire.pack_shared([x_BLC], tags[part])
    places[part].copy_(own_BLC)
    held = {part: payload}
    for axis, step in ((ulysses, 1), (ring, ulysses.size)):
        if axis.size > 1:
            outgoing = [Outgoing(i, held[p], places[p].numel()) for i in axis.others() for p in held]
            parts = [(i, p + (i - axis.index) * step) for i in axis.others() for p in held]
            arrived = messenger.start(axis, outgoing, [message(*each) for each in parts], overlap=False).finish()
            held |= {p: payload for (_, p), payload in zip(parts, arrived)}
    del held[part]
    for p, payload in held.items():
        messenger.wire.unpack(message(0, p).source, payload, [places[p]], tags[p])
    if len(layout.lengths) > 1:
        gathered_BNC = gathered_BNC.index_select(1, layout.restore_order().to(x.device))
    return gathered_BNC.view(*gathered_BNC.shape[:2], *moved.shape[2:]).movedim(1, dim)
