"""Ulysses: an all-to-all turns "some tokens, all heads" into "all tokens of the group, some heads", and back.

Jacobs et al.: DeepSpeed Ulysses, 2023 (arXiv:2309.14509).
Ulysses works on a mesh axis of its own and is not one of the exchanges/, which work on the ring axis. With both, the
all-to-all comes first, an exchange then attends to this rank's heads, and the all-to-all back comes last.
B batch, L tokens of one rank, G tokens of the group, H heads, h heads of one rank at a time, D head dim, U ranks of the
axis.
Each pair of ranks has its own messages, and so its own residual streams.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..compression.wire import Spec
from .axis import Axis
from .layout import TokenLayout
from .messenger import Delivery, Incoming, Messenger, Outgoing
from .unsupported import Unsupported

if TYPE_CHECKING:
    from ..compression.wire import Tag


HEAD_CHUNK_NBYTES = 1 << 18
"""The least bytes of a head chunk on a link that was not measured: 2 ms at 1 Gbit/s."""


def check_heads(heads: int, kv_heads: int, degree: int) -> None:
    """Raises Unsupported unless `degree` divides the number of query heads and that of key and value heads."""
    for count, whose in ((heads, "attention heads"), (kv_heads, "key and value heads")):
        if count % degree:
            raise Unsupported(
                f"ulysses_degree is {degree} but this model has {count} {whose}, which {degree} does not divide; "
                f"choose a ulysses_degree that divides {count} and give the other ranks to ring_degree."
            )


@dataclass(frozen=True)
class HeadChunk:
    """A head chunk: of every member's own K and V heads those from `first` to `last`, and their query heads.

    `kv_heads`: the number of K and V heads of all `members`.
    """

    members: int
    kv_heads: int
    first: int
    last: int

    def of(self, member: int, heads: int) -> slice:
        """The chunk's heads of a member, as a slice of a tensor that has `heads` of all members."""
        start = member * (self.kv_heads // self.members)
        return slice(heads * (start + self.first) // self.kv_heads, heads * (start + self.last) // self.kv_heads)


def head_chunk_count(nbytes: int, least_nbytes: int, most: int) -> int:
    """How many chunks to divide `nbytes` on a link into, each of `least_nbytes` or more: from 1 to `most`."""
    return max(1, min(most, nbytes // least_nbytes))


def head_chunks(members: int, kv_heads: int, count: int) -> list[HeadChunk]:
    """Divides every member's heads into `count` chunks, as equal as can be."""
    small, more = divmod(kv_heads // members, count)
    sizes = [small + (index < more) for index in range(count)]
    return [HeadChunk(members, kv_heads, last - size, last) for size, last in zip(sizes, accumulate(sizes))]


class AllToAll:
    """The all-to-all between the U members of a Ulysses group, for calls of one layer with equal shapes.

    Args:
        first_shard: the shard of `layout` that member 0 holds.
        tag: names the layer and the batch entries.
    """

    def __init__(self, axis: Axis, layout: TokenLayout, first_shard: int, messenger: Messenger, tag: Tag) -> None:
        self._axis, self._messenger, self._tag = axis, messenger, tag
        self._specs: dict[str, tuple[list[Spec], list[Spec]]] = {}
        """For q, k, v and for the output: the messages to each member and from each; they never change."""
        self._local = [layout.local(first_shard + j) for j in range(axis.size)]
        self._text = [layout.text(first_shard + j) for j in range(axis.size)]

    def tokens_to_heads(self, tensors_BLHD: Sequence[Tensor], chunk: HeadChunk) -> Generator[None, None, list[Tensor]]:
        """Each tensor as (B, G, h, D): the group's tokens segment by segment, this rank's heads of the chunk.

        `tensors_BLHD` are q, k, v of this rank's tokens, one dtype, each with its own number of heads. Yields when all
        messages are under way.
        """
        axis, own, lengths = self._axis, self._axis.index, [sum(local) for local in self._local]
        sends = [[x[:, :, chunk.of(j, x.shape[2])] for x in tensors_BLHD] for j in range(axis.size)]
        arrived = [x.new_empty(x.shape[0], sum(lengths), *x.shape[2:]) for x in sends[own]]
        places = list(zip(*(x.flatten(2).split(lengths, dim=1) for x in arrived)))
        text = [self._text[own]] * axis.size, self._text
        delivery = self._start("qkv", [[x.flatten(2) for x in send] for send in sends], places, *text)
        for place_BLC, x_BLHD in zip(places[own], sends[own]):
            place_BLC.unflatten(2, x_BLHD.shape[2:]).copy_(x_BLHD)
        yield
        delivery.unpack([places[j] for j in axis.others()])
        return [self._by_segment(x) for x in arrived]

    def heads_to_tokens(self, x_BGhD: Tensor, chunk: HeadChunk, out_BLHD: Tensor) -> Generator[None, None, None]:
        """The inverse for the output of attention: writes the chunk's heads of all members into `out_BLHD`."""
        axis, own = self._axis, self._axis.index
        sends = [[x.flatten(2)] for x in self._by_member(x_BGhD)]
        places = [[out_BLHD[:, :, chunk.of(j, out_BLHD.shape[2])].flatten(2)] for j in range(axis.size)]
        text = self._text, [self._text[own]] * axis.size
        delivery = self._start("out", sends, places, *text)
        places[own][0].copy_(sends[own][0])
        yield
        delivery.unpack([places[j] for j in axis.others()])

    def _start(
        self,
        what: str,
        sends: Sequence[Sequence[Tensor]],
        places: Sequence[Sequence[Tensor]],
        text_sent: Sequence[int],
        text_coming: Sequence[int],
    ) -> Delivery:
        """Starts an exchange: `sends` and `places` (B, L, C) each, and how many text tokens come first, by member."""
        axis = self._axis
        if what not in self._specs:
            self._specs[what] = self._described(what, sends, places, text_sent, text_coming)
        sent, coming = self._specs[what]
        outgoing = [Outgoing(j, self._messenger.wire.pack(sends[j], sent[j]), sent[j]) for j in axis.others()]
        incoming = [Incoming(j, axis.ranks[j], coming[j]) for j in axis.others()]
        return self._messenger.start(axis, outgoing, incoming)

    def _described(
        self,
        what: str,
        sends: Sequence[Sequence[Tensor]],
        places: Sequence[Sequence[Tensor]],
        text_sent: Sequence[int],
        text_coming: Sequence[int],
    ) -> tuple[list[Spec], list[Spec]]:
        """The messages to each member and from each."""
        members, tag = range(self._axis.size), self._tag
        to = [replace(tag, name=f"{tag.name}, {what} to {j}", exact_tokens=text_sent[j]) for j in members]
        here = f"{tag.name}, {what} to {self._axis.index}"
        coming = [replace(tag, name=here, exact_tokens=text_coming[j]) for j in members]
        return [*map(Spec.of, sends, to)], [*map(Spec.of, places, coming)]

    def _by_segment(self, x_BGhD: Tensor) -> Tensor:
        """Reorders the members' tokens, each [text, image], to [text of all, image of all]."""
        segments = len(self._local[0])
        if segments == 1:
            return x_BGhD
        spans = x_BGhD.split([n for local in self._local for n in local], dim=1)
        return torch.cat([span for segment in range(segments) for span in spans[segment::segments]], dim=1)

    def _by_member(self, x_BGhD: Tensor) -> list[Tensor]:
        """The inverse: the tokens of each member, [text, image]."""
        members = len(self._local)
        spans = x_BGhD.split([n for lengths in zip(*self._local) for n in lengths], dim=1)
        return [torch.cat(spans[j::members], dim=1) if len(spans) > members else spans[j] for j in range(members)]
