"""Sends and receives packed messages between the ranks of an axis, for Ulysses, token_gather.py and the exchanges/.

A message is a wire's payload (see `..compression.wire`): a first part, whose size both ends know in advance, and
sometimes a second part, the supplements, which make up for a loss that is too large. When all first parts have arrived,
their headers tell which messages have supplements, and these travel next, together.
B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..compression.wire import Payload
from .axis import Axis, Transfer, Watcher

if TYPE_CHECKING:
    from ..compression.wire import Spec, Wire
    from ..report.ledger import Ledger


class Outgoing(NamedTuple):
    """A message to axis index `to`."""

    to: int
    payload: Payload
    spec: Spec


class Incoming(NamedTuple):
    """A message received from axis index `via`, which global rank `source` has packed."""

    via: int
    source: int
    spec: Spec


class Messenger:
    """All messages of one job on one rank. As a context manager it leaves nothing under way.

    With `overlap` messages travel while this rank computes; without, `start` waits for them.
    Every rank must start and finish its exchanges in the same order.
    """

    def __init__(self, wire: Wire, ledger: Ledger, overlap: bool = True) -> None:
        self.wire = wire
        self.ledger = ledger
        self.overlap = overlap
        self._watcher = Watcher()
        self._under_way: dict[Delivery, None] = {}

    def __enter__(self) -> Messenger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except RuntimeError as failure:
            if error is None:
                raise
            raise RuntimeError(f"{error} What was on its way could not be waited for: {failure}") from error

    def start(
        self, axis: Axis, outgoing: Sequence[Outgoing], incoming: Sequence[Incoming], overlap: bool | None = None
    ) -> Delivery:
        """Starts to send messages and to receive others; `finish` or `unpack` of the delivery completes them.

        `overlap` overrides the messenger's.
        """
        overlap = self.overlap if overlap is None else overlap
        delivery = Delivery(self, axis, outgoing, incoming, self._watcher if overlap else None)
        self._under_way[delivery] = None
        if not overlap:
            delivery.finish()
        return delivery

    def ended(self, delivery: Delivery) -> None:
        """Called by a delivery that has ended."""
        del self._under_way[delivery]

    def close(self) -> None:
        """Waits for what is still under way, so that no later job receives it, and drops it.

        All ranks must have stopped at the same place. Raises RuntimeError when a peer is gone; the process groups are
        of no more use then.
        """
        failure = None
        for delivery in list(self._under_way):
            try:
                delivery.drop()
            except RuntimeError as error:
                failure = failure or error
        self._watcher.close()
        if failure is not None:
            raise failure


class Delivery:
    """The messages of one exchange, made by `Messenger.start`."""

    def __init__(
        self,
        messenger: Messenger,
        axis: Axis,
        outgoing: Sequence[Outgoing],
        incoming: Sequence[Incoming],
        watcher: Watcher | None,
    ) -> None:
        self._messenger, self._axis, self._outgoing, self._incoming = messenger, axis, outgoing, incoming
        device = outgoing[0].payload.first.device
        self._expected = [messenger.wire.expect(message.source, message.spec) for message in incoming]
        self._firsts = [torch.empty(each.nbytes, dtype=torch.uint8, device=device) for each in self._expected]
        self._payloads: list[Payload] | None = None
        nbytes = sum(message.payload.nbytes for message in outgoing)
        messenger.ledger.sent(nbytes, 2 * sum(message.spec.values for message in outgoing))
        self._transfer = Transfer(
            axis,
            [(message.to, message.payload.first) for message in outgoing],
            [(message.via, first) for message, first in zip(incoming, self._firsts)],
            watcher,
        )

    def finish(self) -> list[Payload]:
        """The received messages, in the order of `incoming`. Raises what a transfer and the wire raise."""
        if self._payloads is None:
            self.drop()
            sizes = [each.supplements_nbytes(first) for each, first in zip(self._expected, self._firsts)]
            supplements = [first.new_empty(size) if size else None for size, first in zip(sizes, self._firsts)]
            sends = [(message.to, message.payload.supplements) for message in self._outgoing]
            receives = [(message.via, part) for message, part in zip(self._incoming, supplements)]
            sends, receives = ([each for each in some if each[1] is not None] for some in (sends, receives))
            if sends or receives:
                Transfer(self._axis, sends, receives).finish(self._messenger.ledger)
            self._payloads = [Payload(*parts) for parts in zip(self._firsts, supplements)]
        return self._payloads

    def unpack(self, outs: Sequence[Sequence[Tensor]]) -> None:
        """Writes every message into its views (B, N, C), in the order of `incoming`."""
        for expected, payload, out in zip(self._expected, self.finish(), outs, strict=True):
            expected.unpack(payload, out)

    def drop(self) -> None:
        """Waits for the first parts of the messages and leaves out the supplements."""
        self._messenger.ended(self)
        self._transfer.finish(self._messenger.ledger)
