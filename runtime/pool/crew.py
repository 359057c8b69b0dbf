"""The worker processes of a pool: launched together, heard as one, ended together."""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import PoolConfig
from .errors import JobFailed, PoolError, Stopped, WorkerDied
from .launcher import WorkerProcess
from .messages import Failed, Message, Ready
from .worker import Orders

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
# A worker that dies makes its peers fail in their collectives; wait this long for the death that explains the failure.
BLAME_SECONDS = 0.5
# Exceptions whose message was written for the user: no traceback makes it clearer.
SENTENCES = ("Refused", "Diverged", "NotFinite", "Cancelled", "ShippingError")


@dataclass(frozen=True)
class Entry:
    """What the workers run: "module:attribute" of the handler inside the pack, its options and the command line."""

    handler: str
    command_line: tuple[str, ...]
    options: dict


class Crew:
    """One worker per device while they run, none otherwise. `stopping` is set by whoever ends them on purpose."""

    def __init__(self, config: PoolConfig, devices: tuple[str, ...], entry: Entry) -> None:
        self.backend = config.resolve_backend(devices)
        self.workers: list[WorkerProcess] = []
        self.directory: Path | None = None
        self.link: dict | None = None
        self.stopping = False
        self._config = config
        self._devices = devices
        self._entry = entry
        self._events: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()

    @property
    def world(self) -> int:
        """The number of workers there are or will be."""
        return len(self._devices)

    def launch(self) -> None:
        """Start the processes; `await_ready` must follow."""
        self.directory = Path(tempfile.mkdtemp(prefix="compact-parallel-"))
        cpu_workers = max(1, self._devices.count("cpu"))
        events = self._events = queue.SimpleQueue()
        for rank, device in enumerate(self._devices):
            orders = Orders(
                rank=rank,
                world=self.world,
                device=device,
                backend=self.backend,
                rendezvous=str(self.directory / "rendezvous"),
                handler=self._entry.handler,
                log_level=log.getEffectiveLevel(),
                options={**self._entry.options, "directory": str(self.directory)},
            )
            command_line = list(self._entry.command_line)
            self.workers.append(
                WorkerProcess(orders, cpu_workers, command_line, lambda rank, message: events.put((rank, message)))
            )

    def await_ready(self, check_interrupt: Callable[[], None]) -> None:
        """Returns when all are ready. Raises PoolError, or what `check_interrupt` raises; the workers are left then."""
        deadline = time.monotonic() + self._config.start_timeout_s
        waiting = {worker.rank for worker in self.workers}
        while waiting:
            check_interrupt()
            for worker in self.workers:
                if worker.exit_code() is not None:
                    raise self.death(worker.rank)
            if time.monotonic() > deadline:
                names = ", ".join(self.workers[rank].name for rank in sorted(waiting))
                raise PoolError(
                    f"start_timeout_s: {names} did not start within {self._config.start_timeout_s:g} s; "
                    f"raise start_timeout_s or see the log.\n{self.workers[min(waiting)].log_tail()}"
                )
            match self.hear():
                case rank, None:
                    raise self.death(rank)
                case rank, Failed() as failure:
                    raise self.blame(rank, failure)
                case rank, Ready(about=about, link=link):
                    self.workers[rank].about = dict(about)
                    self.workers[rank].state = "idle"
                    self.link = link
                    waiting.discard(rank)

    def hear(self, seconds: float = POLL_SECONDS) -> tuple[int, Message | None] | None:
        """The next message with its sender's rank; None for a message says that the rank is gone.

        Returns None when nothing comes within `seconds`.
        """
        with contextlib.suppress(queue.Empty):
            return self._events.get(timeout=max(0.0, seconds))
        return None

    def tell_all(self, message: Message) -> None:
        """Send one message to every worker."""
        for worker in self.workers:
            worker.send(message)

    def set_state(self, state: str) -> None:
        """What the status shows of every worker."""
        for worker in self.workers:
            worker.state = state

    def kill(self) -> None:
        """End all processes without waiting. Any thread may call it."""
        for worker in list(self.workers):
            worker.kill()

    def end(self) -> None:
        """End all processes, wait until they are gone, and remove their directory."""
        self.kill()
        for worker in self.workers:
            worker.join()
        self.workers = []
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    def blame(self, rank: int, failure: Failed) -> PoolError:
        """The death behind a failure where there is one: its peers only saw their connection close."""
        deadline = time.monotonic() + BLAME_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            match self.hear(left):
                case other, None:
                    return self.death(other)
        return self.failure(rank, failure)

    def failure(self, rank: int, failure: Failed) -> JobFailed:
        """The error that a worker's failure is."""
        # An agreed failure is a sentence for the user; any other is a bug somewhere, and its traceback finds it.
        traceback = "" if failure.kind in SENTENCES else failure.traceback
        return JobFailed(failure.kind, failure.error, self.workers[rank].name, traceback)

    def death(self, rank: int) -> PoolError:
        """The error that the end of a worker is."""
        if self.stopping:
            return Stopped(f"The parallel pool {self._config.name or 'default'} was stopped while it was in use.")
        worker = self.workers[rank]
        worker.kill()
        worker.join()
        code = worker.exit_code()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerDied(
            f"{worker.name.capitalize()}, process {worker.pid}, ended with {how}; the pool restarts on the next run."
            f"\nIts last words:\n{worker.log_tail()}"
        )
