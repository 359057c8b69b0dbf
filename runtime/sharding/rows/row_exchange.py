"""The exchange of halo rows and norm statistics between ranks that hold rows of the same feature maps.

None of it is compressed, nor displaced with ring_exchange "displaced": it is a fiftieth of what a UNet like SDXL sends,
and halos of the call before made ten times the error that K and V of the call before make (measured on a tiny one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...attention.axis import Axis, exchange
from .row_layout import RowLayout

if TYPE_CHECKING:
    from ...report.ledger import Ledger

Span = tuple[int, int]
"""A range of rows: the first, and the last plus one."""


class RowExchange:
    """The exchange over a mesh axis whose index is the shard index. Its bytes are written into the ledger."""

    def __init__(self, axis: Axis, ledger: Ledger) -> None:
        self.axis = axis
        self._ledger = ledger

    def with_halos(self, x_BCRW: Tensor, rows: RowLayout, needs: Sequence[Span]) -> Tensor:
        """The local rows and the halo they need: `needs` has the span of every shard, which includes its own rows.

        Rows above the first and below the last of the whole map are zero.
        """
        index, (first, last), need = self.axis.index, rows.rows(self.axis.index), needs[self.axis.index]
        sends, receives = {}, {}
        for other in self.axis.others():
            start, end = _overlap(needs[other], (first, last))
            if start < end:
                sends[other] = x_BCRW.narrow(-2, start - first, end - start)
            start, end = _overlap(need, rows.rows(other))
            if start < end:
                receives[other] = _rows_like(x_BCRW, end - start)
        self._swap(sends, receives)
        above = [_rows_like(x_BCRW, -need[0]).zero_()] if need[0] < 0 else []
        below = [_rows_like(x_BCRW, need[1] - rows.height).zero_()] if need[1] > rows.height else []
        before = [receives[other] for other in sorted(receives) if other < index]
        behind = [receives[other] for other in sorted(receives) if other > index]
        return torch.cat([*above, *before, x_BCRW, *behind, *below], dim=-2)

    def from_all(self, x: Tensor) -> Tensor:
        """All-gathers a small tensor: (P, ...). It has the same shape on all ranks."""
        receives = {other: torch.empty_like(x) for other in self.axis.others()}
        self._swap(dict.fromkeys(receives, x), receives)
        return torch.stack([receives.get(part, x) for part in range(self.axis.size)])

    def _swap(self, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor]) -> None:
        values = sum(x.numel() for x in sends.values())
        self._ledger.sent(sum(x.numel() * x.element_size() for x in sends.values()), 2 * values)
        exchange(self.axis, sends, receives, self._ledger)


def _overlap(span: Span, other: Span) -> Span:
    return max(span[0], other[0]), min(span[1], other[1])


def _rows_like(x_BCRW: Tensor, rows: int) -> Tensor:
    return x_BCRW.new_empty(*x_BCRW.shape[:-2], rows, x_BCRW.shape[-1])
