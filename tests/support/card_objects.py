"""What a simulated card has in place of objects of torch that need a real one."""

from __future__ import annotations

import time
from typing import Any

import torch


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self._seconds = 0.0

    def record(self, stream: Any | None = None) -> None:
        self._seconds = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds; nobody waits, both events must have passed."""
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
