"""How streams may keep their bases, given what the bases of this rank may hold in all.

Only the sender of a stream decides; its payloads tell the receivers. It can: ranks run the same layers in the same
order with chunks of equal size (within a token), so every rank holds about as much as this one. Where chunks differ, a
rank may pass the limit by that difference.

A run's first call shows how many streams there are; meanwhile each keeps one base in block int8. With its second
message a stream settles for the best way that fits for all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .bases import Keeping, base_nbytes
from .predict import ORDERS

if TYPE_CHECKING:
    from .stream import Shape, Stream

GIB = 1 << 30


class BaseMemory:
    """The budget of one rank. `predictor` is a key of ORDERS or "auto": least_squares while it fits, then previous.

    Int8 bases come before fewer bases: they cost far less quality than the second base gives.
    """

    def __init__(self, predictor: str, limit_gb: float) -> None:
        orders = (2, 1) if predictor == "auto" else (ORDERS[predictor],)
        self._choices = [Keeping(order, small) for order in orders for small in (False, True)]
        self._limit = limit_gb * GIB
        self._peers: set[int] = set()
        self._one_base = {False: 0, True: 0}
        self.held = 0
        """Bytes that the bases of all streams hold now."""

    def met(self, source: int) -> None:
        """`source` sends to this rank."""
        self._peers.add(source)

    def changed(self, stream: Stream, before: tuple[int, int]) -> None:
        """`stream` had (bytes held, bases kept) `before`; now it has what it says."""
        held, kept = before
        self.held += stream.held - held
        if bool(stream.keep) != bool(kept):
            for small in self._one_base:
                self._one_base[small] += (1 if stream.keep else -1) * _base_nbytes(stream.shape, small)

    def start(self, shapes: Sequence[Shape]) -> Keeping:
        """How the streams of a message that begin now keep their bases until they settle. One message adds at most
        (1 + number of peers) times its own bases to every rank."""
        if not self._choices[0].bases:
            return Keeping(0, False)
        more = (1 + max(1, len(self._peers))) * sum(_base_nbytes(shape, small=True) for shape in shapes)
        return Keeping(int(self._one_base[True] + more <= self._limit), True)

    def settle(self) -> Keeping:
        """How every stream that keeps a base keeps it from its second message on."""
        fits = (way for way in self._choices if way.bases * self._one_base[way.small] <= self._limit)
        return next(fits, Keeping(1, True))


def _base_nbytes(shape: Shape, small: bool) -> int:
    return base_nbytes(shape.coded, shape.channels, shape.dtype, small)
