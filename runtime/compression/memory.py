"""How many bases a new stream may keep, given what the bases of this rank may hold in all.

Only the sender of a stream decides; its payloads tell the receivers. It can: ranks run the same layers in the same
order with chunks of equal size (within a token), so every rank holds about as much as this one, and one message adds at
most (1 + number of peers) times its own bases to each of them. Where chunks differ, a rank may pass the limit by that
difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .predict import ORDERS
from .stream import Stream

GIB = 1 << 30


class BaseMemory:
    """The budget of one rank: `predictor` is a key of ORDERS or "auto" (least_squares while it fits, then previous)."""

    def __init__(self, predictor: str, limit_gb: float) -> None:
        self._orders = (2, 1) if predictor == "auto" else (ORDERS[predictor],)
        self._limit = limit_gb * GIB
        self._peers: set[int] = set()
        self._promised = 0
        self.held = 0
        """Bytes that the bases of all streams hold now; they grow to what was promised in the first two calls."""

    def met(self, source: int) -> None:
        """`source` sends to this rank."""
        self._peers.add(source)

    @contextmanager
    def following(self, stream: Stream) -> Iterator[None]:
        """Notes by how much the bases of `stream` grow or shrink meanwhile."""
        held, promised = stream.held, stream.promised
        yield
        self.held += stream.held - held
        self._promised += stream.promised - promised

    def order(self, nbytes: int) -> int | None:
        """Bases to keep for streams that begin now and take `nbytes` per base together; None if not even one fits."""
        copies = 1 + max(1, len(self._peers))
        return next((o for o in self._orders if self._promised + o * nbytes * copies <= self._limit), None)
