"""What a simulated card has in place of objects of torch that need a real one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from simulated_card import SimulatedCard


class Event:
    """A moment in the work of the card, known to have passed once the host has waited for anything after it."""

    def __init__(self, card: SimulatedCard, enable_timing: bool = False) -> None:
        self._card = card
        self._seconds, self._waits = 0.0, 0

    def record(self, stream: Any | None = None) -> None:
        self._seconds, self._waits = time.perf_counter(), self._card.waits.total()

    def synchronize(self) -> None:
        """The host waits for it."""
        self._card._wait("synchronize")

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds. Nobody waits; as on a real card both events must have passed."""
        if self._card.waits.total() == end._waits:
            raise RuntimeError("device not ready: nobody has waited for this event")
        return 1000 * (end._seconds - self._seconds)


class Generator(torch.Generator):
    """A generator that says it is on a device that is not there."""

    def __new__(cls, device: str | torch.device = "cpu") -> Generator:
        return super().__new__(cls, "cpu")


class Nothing:
    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        return None
