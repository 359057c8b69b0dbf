"""Displaced attention: the other ranks' K and V are those of the previous call, so no rank waits for the link.

Li et al.: DistriFusion, 2024 (arXiv:2402.19481). Neighbouring calls of a diffusion model see similar K and V.
B batch, L tokens of one rank, N tokens of all, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .all_gather import Gathered
from .axis import Axis
from .messenger import Delivery, Messenger

if TYPE_CHECKING:
    from ..compression.wire import Tag

SYNCHRONOUS_CALLS = 2
"""The number of first calls that wait for fresh K and V; the first displaced call uses the K and V of the second."""


@dataclass
class _Stale:
    """The state of one layer for one set of batch entries."""

    calls: int = 0
    gathered: Gathered | None = None
    on_its_way: Delivery | None = None


class Displaced:
    """The K and V of one job that are on this rank or under way to it. A layer may miss calls: its next one goes on.

    Each layer, batch and shape has its own state. The messenger waits for what is under way when the job ends.
    """

    def __init__(self) -> None:
        self._stale: dict[tuple, _Stale] = {}

    def gather(
        self, tensors_BLHD: Sequence[Tensor], axis: Axis, *, chunks: Sequence[int], tags: Sequence[Tag],
        messenger: Messenger,
    ) -> Generator[None, None, list[Tensor]]:  # fmt: skip
        """Like `gather_kv`, but with the other ranks' tensors of the previous call; this rank's are fresh and exact."""
        tag = tags[axis.index]
        shapes = tuple(tuple(x.shape) for x in tensors_BLHD)
        key = (tag.slots, tag.layer, tag.name, tuple(chunks), shapes, tensors_BLHD[0].dtype)
        stale = self._stale.setdefault(key, _Stale())
        gathered = stale.gathered or Gathered(tensors_BLHD, axis, chunks, tags)
        if stale.on_its_way is not None:
            gathered.receive(stale.on_its_way)
        stale.calls += 1
        displaced = stale.calls > SYNCHRONOUS_CALLS
        delivery = gathered.send(tensors_BLHD, messenger, overlap=True if displaced else None)
        if displaced:
            stale.gathered, stale.on_its_way = None, delivery
            return gathered.tensors
        yield
        gathered.receive(delivery)
        stale.gathered = gathered
        return gathered.tensors
