"""Buffers for the keys and values of all ranks of an axis, which the ranks fill by sending theirs to all others.

B batch, L tokens of one rank, N tokens of all, H heads, D head dim, C = H * D.
"""

from __future__ import annotations

from itertools import accumulate

from torch import Tensor

from ...compression.wire import Payload
from ..messenger import Delivery
from .base import Attention


class Gathered:
    """K and V of all ranks, in axis order: `tensors` (B, N, H, D). This rank's are there from the start, exact."""

    def __init__(self, attention: Attention) -> None:
        self.tensors = [x.new_empty(x.shape[0], sum(attention.lengths), *x.shape[2:]) for x in attention.kv_BLHD]
        self._flat = [x_BNHD.flatten(2) for x_BNHD in self.tensors]
        self._ends = list(accumulate(attention.lengths))
        self._axis = attention.axis
        self.update(attention)

    def update(self, attention: Attention) -> None:
        """Copies this rank's K and V into their place."""
        index = self._axis.index
        length = attention.lengths[index]
        for all_BNHD, x_BLHD in zip(self.tensors, attention.kv_BLHD):
            all_BNHD.narrow(1, self._ends[index] - length, length).copy_(x_BLHD)

    def shard(self, index: int) -> list[Tensor]:
        """The K and V of one rank: views (B, L, C)."""
        start = self._ends[index - 1] if index else 0
        return [x_BNC.narrow(1, start, self._ends[index] - start) for x_BNC in self._flat]

    def pack(self, attention: Attention) -> Payload:
        """This rank's K and V as a message."""
        return attention.messenger.wire.pack(self.shard(self._axis.index), attention.specs[self._axis.index])

    def send(self, attention: Attention, overlap: bool | None = None) -> Delivery:
        """Sends this rank's K and V to all others, who send theirs; see `Messenger.start`."""
        payload, others = self.pack(attention), self._axis.others()
        outgoing = [attention.outgoing(i, payload) for i in others]
        incoming = [attention.incoming(i) for i in others]
        return attention.messenger.start(self._axis, outgoing, incoming, overlap)

    def receive(self, delivery: Delivery) -> None:
        """Unpacks the K and V of all others into their places."""
        delivery.unpack([self.shard(i) for i in self._axis.others()])
