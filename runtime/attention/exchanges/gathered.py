"""Buffers for the keys and values of all ranks of an axis, which the ranks fill by sending theirs to all others.

B batch, L tokens of one rank, N tokens of all, H heads, D head dim, C = H * D.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ...compression.wire import Payload, Spec
from ..axis import Axis
from ..messenger import Delivery
from .exchange import Attention


class Gathered:
    """K and V of all ranks, in axis order, each (B, N, C); `specs` describes those of each rank."""

    def __init__(self, axis: Axis, specs: Sequence[Spec], device: torch.device) -> None:
        self._axis = axis
        self._ends = list(accumulate(spec.shapes[0][1] for spec in specs))
        self._all = [
            torch.empty(batch, self._ends[-1], channels, dtype=specs[0].dtype, device=device)
            for batch, _, channels in specs[0].shapes
        ]

    @classmethod
    def of(cls, attention: Attention) -> Gathered:
        """Buffers that hold this rank's K and V from the start, exact."""
        gathered = cls(attention.axis, attention.specs, attention.q_BLHD.device)
        gathered.update(attention)
        return gathered

    def update(self, attention: Attention) -> None:
        """Copies this rank's K and V into their place."""
        for place_BLC, x_BLHD in zip(self.shard(self._axis.index), attention.kv_BLHD):
            place_BLC.unflatten(2, x_BLHD.shape[2:]).copy_(x_BLHD)

    def shard(self, index: int) -> list[Tensor]:
        """The K and V of one rank: views (B, L, C)."""
        start = self._ends[index - 1] if index else 0
        return [x_BNC.narrow(1, start, self._ends[index] - start) for x_BNC in self._all]

    def tensors(self, attention: Attention) -> list[Tensor]:
        """The K and V of all ranks, (B, N, H, D)."""
        return [x_BNC.unflatten(2, x_BLHD.shape[2:]) for x_BNC, x_BLHD in zip(self._all, attention.kv_BLHD)]

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
