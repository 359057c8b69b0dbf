"""The memory budget for bases: decides how many bases each stream keeps, and in which form.

Only the sender of a stream decides; its messages tell the receivers. The sender can decide for all, because ranks run
the same layers in the same order with shards of equal size (within a token), so every rank holds about as much as this
one. If shards differ, a rank may exceed the limit by that difference.

The first call of a run shows how many streams there are; until then each keeps one base in block int8. From its second
message on a stream uses the best choice that fits the limit if all streams use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .bases import Keeping, base_nbytes
from .predict import ORDERS

if TYPE_CHECKING:
    from .stream import Shape, Stream

GIB = 1 << 30


class BaseBudget:
    """The budget of one rank. `predictor` is a key of ORDERS or "auto": least_squares if it fits, else previous.

    Bases in int8 are tried before fewer bases: int8 costs far less quality than the second base gives.
    """

    def __init__(self, predictor: str, limit_gb: float) -> None:
        orders = (2, 1) if predictor == "auto" else (ORDERS[predictor],)
        self._choices = [Keeping(order, small) for order in orders for small in (False, True)]
        self._limit = limit_gb * GIB
        self._peers: set[int] = set()
        self._one_base = {False: 0, True: 0}
        self._counted: dict[Stream, tuple[int, int]] = {}
        """(bytes held, bases kept) of each stream, as they stand in the totals."""
        self.held = 0
        """Bytes of the bases of all streams at present."""

    def met(self, source: int) -> None:
        """Records that rank `source` sends to this rank."""
        self._peers.add(source)

    def changed(self, stream: Stream) -> None:
        """Updates the totals after a message of `stream`."""
        held, kept = self._counted.get(stream, (0, 0))
        self._counted[stream] = stream.held, stream.keep
        self.held += stream.held - held
        if bool(stream.keep) != bool(kept):
            for small in self._one_base:
                self._one_base[small] += (1 if stream.keep else -1) * _base_nbytes(stream.shape, small)

    def start(self, shapes: Sequence[Shape]) -> Keeping:
        """How new streams of a message keep their bases until `settle` decides. One message adds at most
        (1 + number of peers) times its own bases to every rank."""
        if not self._choices[0].bases:
            return Keeping(0, False)
        more = (1 + max(1, len(self._peers))) * sum(_base_nbytes(shape, small=True) for shape in shapes)
        return Keeping(int(self._one_base[True] + more <= self._limit), True)

    def settle(self) -> Keeping:
        """How every stream that keeps a base keeps its bases from its second message on."""
        fits = (way for way in self._choices if way.bases * self._one_base[way.small] <= self._limit)
        return next(fits, Keeping(1, True))


def _base_nbytes(shape: Shape, small: bool) -> int:
    return base_nbytes(shape.coded, shape.channels, shape.dtype, small)
