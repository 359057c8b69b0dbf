"""The protocols between a pool and the place where its workers run.

A Launcher opens a Site for each start of a pool. The Site starts the workers, each of which the pool holds by a
WorkerHandle; it tells how they find each other (Rendezvous) and shares tensors with them (store.Store). A worker talks
to its pool by a PoolConnection. local/ implements all of this for processes of this machine; workers on other machines
would need another Launcher, not another pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .messages import Message
from .orders import Orders
from .store import Store

Deliver = Callable[[int, Message | None], None]
"""Called with a worker's rank and each of its messages; with None when its connection has closed."""


class WorkerHandle(Protocol):
    """A started worker, as its pool holds it. Any thread may call its methods."""

    @property
    def pid(self) -> int:
        """The process id on the worker's machine."""

    def send(self, data: bytes) -> None:
        """Queue one encoded message and return at once, even if the worker is gone or does not read."""

    def exit_code(self) -> int | None:
        """The exit code of the process, negative for a signal; None while it runs."""

    def log_tail(self) -> str:
        """The last lines the worker printed."""

    def kill(self) -> None:
        """End the process and the processes it started, without waiting."""

    def join(self, seconds: float) -> None:
        """Wait until the killed process is gone and all it sent and printed is read, for at most `seconds`."""


class Rendezvous(Protocol):
    """Where the ranks find each other to make one default process group, as the pool watches it."""

    url: str
    """For `rendezvous.join_all`: "file://" and a path, or a URL that torch.distributed knows, such as "tcp://"."""

    def met(self) -> None:
        """Record that all ranks have connected through it."""

    def fault(self) -> str:
        """A sentence saying why the ranks cannot use it, or make further groups through it; "" if they can."""


class Site(Protocol):
    """The place where the workers of one start of a pool run, from `Launcher.open` until `close`."""

    store: Store
    """The tensors that the pool and its workers share."""

    def rendezvous(self) -> Rendezvous:
        """A new rendezvous; each default process group needs its own."""

    def start(self, orders: Orders, deliver: Deliver) -> WorkerHandle:
        """Start one worker without waiting until it is ready; `deliver` is called in a thread of the handle."""

    def close(self) -> None:
        """Remove what the site keeps, such as its store. Every worker has been killed and joined before."""


class Launcher(Protocol):
    """Opens sites for the workers of one pool."""

    def open(self, devices: tuple[str, ...]) -> Site:
        """A site for one worker per device. Raises PoolError if there is no place for the workers' files."""


class PoolConnection(Protocol):
    """The worker's end of its connection to the pool."""

    def send(self, data: bytes) -> None:
        """Send one encoded message. Two threads call it."""

    def receive(self) -> bytes:
        """Wait for the next message. Raises EOFError or OSError when the pool is gone, however it ended."""

    def clean_up(self) -> None:
        """Called when the pool is gone, before the process exits: remove the files that nobody else can remove."""
