"""The settings with which a worker starts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Orders:
    """A worker's settings, sent at its start as JSON.

    `handler` is "module:attribute" inside the pack, called with these orders. `rendezvous` is a URL for
    `rendezvous.join_all`, `store` an address for `store.open_store`. `command_line` becomes the worker's sys.argv.
    `connect_seconds` limit the first messages between the workers.
    `beside` are the ranks on the same card, this one among them; `turns` the most workers that any card has.
    """

    rank: int
    world: int
    device: str
    backend: str
    rendezvous: str
    store: tuple[str, ...]
    handler: str
    connect_seconds: float
    command_line: tuple[str, ...] = ()
    log_level: int = logging.INFO
    options: dict = field(default_factory=dict)
    beside: tuple[int, ...] = ()
    turns: int = 1

    @property
    def name(self) -> str:
        """The worker's name in messages to people."""
        return f"worker {self.rank} ({self.device})"
