"""Displaced attention: the other ranks' K and V are those of the previous call, so no rank waits for the link.

Li et al.: DistriFusion, 2024 (arXiv:2402.19481). Neighbouring calls of a diffusion model see similar K and V.
B batch, L tokens of one rank, N tokens of all, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from torch import Tensor

from ...compression.wire import Spec
from ..messenger import Delivery
from .exchange import Attention, Exchange
from .gathered import Gathered

SYNCHRONOUS_CALLS = 2
"""The number of first calls that wait for fresh K and V; the first displaced call uses the K and V of the second."""


@dataclass
class _Stale:
    """The state of one layer for one set of batch entries."""

    calls: int = 0
    gathered: Gathered | None = None
    """The K and V of the last call, if they are here already."""
    on_its_way: Delivery | None = None

    def receive(self, gathered: Gathered) -> None:
        """Writes what is under way into `gathered`, for the next call."""
        gathered.receive(self.on_its_way)
        self.gathered, self.on_its_way = gathered, None


class Displaced(Exchange):
    """Holds the K and V that are on this rank or under way to it.

    Each layer, batch and shape has its own state. A layer that did not run in some calls uses the K and V of the last
    call in which it ran. When the job ends, the messenger waits for what is under way.
    """

    name = "displaced"
    tooltip = (
        "works with the other workers' keys and values of the step before (DistriFusion); nobody waits, but the "
        "picture changes."
    )
    place = 30

    def __init__(self) -> None:
        self._stale: dict[tuple[str, str], dict[tuple[Spec, ...], _Stale]] = {}
        """By layer and name of the message, then by its batch entries and shapes."""

    def attend(self, attention: Attention) -> Generator[None, None, Tensor]:
        """See `Exchange.attend`."""
        return attention.function(*(yield from self._gather(attention)))

    def _gather(self, attention: Attention) -> Generator[None, None, list[Tensor]]:
        """Like `all_gather.gather_kv`, but the other ranks' K and V are those of the previous call."""
        axis, device = attention.axis, attention.q_BLHD.device
        tag = attention.specs[axis.index].tag
        batches = self._stale.setdefault((tag.layer, tag.name), {})
        stale = batches.setdefault(attention.specs, _Stale())
        for specs, each in batches.items():
            # Other batches may be about some of the same entries, and a wire takes the messages about one in order.
            if each.on_its_way is not None:
                each.receive(Gathered(axis, specs, device))
        gathered, stale.gathered = stale.gathered or Gathered(axis, attention.specs, device), None
        gathered.update(attention)
        stale.calls += 1
        if stale.calls > SYNCHRONOUS_CALLS:
            stale.on_its_way = gathered.send(attention, overlap=True)
            return gathered.tensors(attention)
        delivery = gathered.send(attention)
        yield
        gathered.receive(delivery)
        stale.gathered = gathered
        return gathered.tensors(attention)


EXCHANGE = Displaced
