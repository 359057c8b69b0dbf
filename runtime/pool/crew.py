"""The worker processes of a pool: launched together, heard as one, ended together."""

from __future__ import annotations

import logging
import queue
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import PoolConfig
from .errors import JobFailed, PoolError, Stopped, WorkerDied, WorkerSilent
from .heartbeat import Heartbeat
from .launcher import END_SECONDS, WorkerProcess
from .messages import Done, Failed, Message, Park, Parked, Pong, Prepare, Prepared, Ready, Renew, Renewed, Run, encode
from .rendezvous import RendezvousFile
from .worker import Orders

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
# A worker that dies makes its peers fail in their collectives; wait this long for the death that explains the failure.
BLAME_SECONDS = 0.5
# Exceptions whose message was written for the user: no traceback makes it clearer.
SENTENCES = (
    "Refused", "RefusedAlone", "NotReturned", "Diverged", "NotFinite", "Cancelled", "ShippingError", "RendezvousLost",
)  # fmt: skip
# What new connections between the workers may take.
RENEW_SECONDS = 30.0
# A worker that does not answer for as long is stopped or hangs. Swapping, loading from a slow disk and native calls
# that hold the interpreter make it late by seconds, not by as much.
SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Entry:
    """What the workers run: "module:attribute" of the handler inside the pack, its options and the command line."""

    handler: str
    command_line: tuple[str, ...]
    options: dict


class Crew:
    """One worker per device while they run, none otherwise.

    `busy`: the ranks that owe an answer to what they were told last. `stopping`: the threads that end the workers on
    purpose.
    """

    def __init__(
        self,
        config: PoolConfig,
        devices: tuple[str, ...],
        entry: Entry,
        changed: Callable[[], None],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`changed` is called, in any thread, when a worker has fallen silent, answers again or has ended."""
        self.backend = config.resolve_backend(devices)
        self.workers: list[WorkerProcess] = []
        self.directory: Path | None = None
        self.link: dict | None = None
        self.busy: set[int] = set()
        self.stopping: set[int] = set()
        self._config = config
        self._devices = devices
        self._entry = entry
        self._changed = changed
        self._silence_seconds = silence_seconds
        self._events: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._heartbeat = Heartbeat(self.world, changed)
        self._rendezvous: RendezvousFile | None = None

    @property
    def world(self) -> int:
        """The number of workers there are or will be."""
        return len(self._devices)

    def launch(self) -> None:
        """Start the processes; `await_ready` must follow. Raises PoolError where there is no place for their files."""
        self.directory = _new_directory()
        self._rendezvous = RendezvousFile(self.directory)
        cpu_workers = max(1, self._devices.count("cpu"))
        events = self._events = queue.SimpleQueue()
        heartbeat = self._heartbeat = Heartbeat(self.world, self._changed)

        def deliver(rank: int, message: Message | None) -> None:
            if message is not None:
                heartbeat.heard(rank)
            if not isinstance(message, Pong):
                events.put((rank, message))

        self.busy = set(range(self.world))
        for rank, device in enumerate(self._devices):
            orders = Orders(
                rank=rank,
                world=self.world,
                device=device,
                backend=self.backend,
                rendezvous=str(self._rendezvous.path),
                handler=self._entry.handler,
                log_level=log.getEffectiveLevel(),
                options={**self._entry.options, "directory": str(self.directory)},
            )
            self.workers.append(WorkerProcess(orders, cpu_workers, list(self._entry.command_line), deliver))
        heartbeat.start(tuple(self.workers))

    def await_ready(self, check_interrupt: Callable[[], None]) -> None:
        """Returns when all are ready. Raises PoolError, or what `check_interrupt` raises; the workers are left then."""
        deadline = time.monotonic() + self._config.start_timeout_s
        while self.busy:
            check_interrupt()
            for worker in self.workers:
                if worker.exit_code() is not None:
                    raise self.death(worker.rank)
            if time.monotonic() > deadline:
                names = ", ".join(self.workers[rank].name for rank in sorted(self.busy))
                raise PoolError(
                    f"start_timeout_s: {names} did not start within {self._config.start_timeout_s:g} s; "
                    f"raise start_timeout_s or see the log.\n{self.workers[min(self.busy)].log_tail()}"
                )
            match self._take(POLL_SECONDS):  # a silent one is told about, but it is start_timeout_s that counts
                case rank, None:
                    raise self.death(rank)
                case rank, Failed() as failure:
                    raise self.blame(rank, failure)
                case rank, Ready(link=link):
                    self.workers[rank].state = "idle"
                    self.link = link
        self._rendezvous.met()

    def fault(self) -> str:
        """Why these workers, though idle, cannot take the next run, in a sentence; "" where they can."""
        for worker in self.workers:
            if worker.exit_code() is not None:
                return f"{worker.name.capitalize()} had ended."
        if (silent := self._silent(self._silence_seconds)) is not None:
            return f"{silent.name.capitalize()} had not answered for {self._heartbeat.silent_seconds(silent.rank):g} s."
        if not self._rendezvous.intact():
            return f"The workers' folder for temporary files, {self.directory}, was removed or changed from outside."
        return ""

    def hear(self, seconds: float = POLL_SECONDS) -> tuple[int, Message | None] | None:
        """The next message with its sender's rank; None for a message says that the rank is gone.

        Returns None when nothing comes within `seconds`. Raises WorkerSilent when a worker no longer answers.
        """
        heard = self._take(seconds)
        if heard is None and (error := self.silence(self._silence_seconds)) is not None:
            raise error
        return heard

    def _take(self, seconds: float) -> tuple[int, Message | None] | None:
        try:
            rank, message = self._events.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(message, Ready | Prepared | Done | Failed | Renewed | Parked):
            self.busy.discard(rank)
        match message:
            case Ready(about=about) | Done(about=about) | Failed(about=about):
                self.workers[rank].about = dict(about)
            case Parked(device_bytes=held):
                self.workers[rank].about["device_bytes"] = held
        return rank, message

    def tell_all(self, message: Message) -> None:
        """Send one message to every worker."""
        if isinstance(message, Prepare | Run | Renew | Park):
            self.busy = set(range(self.world))
        data = encode(message)
        for worker in self.workers:
            worker.send(data)

    def renew(self, check_interrupt: Callable[[], None]) -> bool:
        """Give the workers new connections: what a job has left on its way goes with the old ones. None is in a job.

        False where that cannot be: a device is of no more use, or their folder is gone. Raises what `check_interrupt`
        raises.
        """
        rendezvous = self._rendezvous.next()
        if not rendezvous.path.parent.is_dir():
            return False
        self.tell_all(Renew(str(rendezvous.path)))
        deadline = time.monotonic() + RENEW_SECONDS
        while self.busy and time.monotonic() < deadline:
            check_interrupt()
            match self.hear():
                case rank, None:
                    raise self.death(rank)
                case _, Failed():
                    return False
        if self.busy:
            return False
        rendezvous.met()
        self._rendezvous = rendezvous
        return True

    def statuses(self) -> list[dict]:
        """What the pool's status shows of every worker; `silent_seconds` without an answer, 0 for a moment."""
        told = self._heartbeat.told_seconds
        return [{**worker.status(), "silent_seconds": told(worker.rank)} for worker in list(self.workers)]

    def _silent(self, seconds: float) -> WorkerProcess | None:
        """The worker that has not answered for longest, if it is `seconds` or more."""
        silence = self._heartbeat.silent_seconds
        longest = max(self.workers, key=lambda worker: silence(worker.rank), default=None)
        return longest if longest is not None and silence(longest.rank) >= seconds else None

    def set_state(self, state: str) -> None:
        """What the status shows of every worker."""
        for worker in self.workers:
            worker.state = state

    def kill(self) -> None:
        """End all processes without waiting. Any thread may call it."""
        for worker in list(self.workers):
            worker.kill()

    def end(self) -> None:
        """End all processes, wait until they are gone (END_SECONDS at most), and remove their directory."""
        self._heartbeat.end()
        self.kill()
        deadline = time.monotonic() + END_SECONDS
        for worker in self.workers:
            worker.join(deadline - time.monotonic())
        self.workers = []
        self.busy = set()
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

    def silence(self, seconds: float) -> PoolError | None:
        """The error that a worker is which has not answered for `seconds`; None where all have."""
        worker = self._silent(seconds)
        if worker is None or self.stopping:
            return None
        return WorkerSilent(
            f"{worker.name.capitalize()}, process {worker.pid}, has not answered for "
            f"{self._heartbeat.silent_seconds(worker.rank):g} s and was ended; the pool restarts on the next run."
            f"\nIts last words:\n{worker.log_tail()}",
            worker.rank,
        )

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


def _new_directory() -> Path:
    """A folder for the workers' files, in the one for temporary files, which is made again where it was removed."""
    parent = Path(tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="compact-parallel-", dir=parent))
    except OSError as error:
        raise PoolError(
            f"There is no place for the workers' temporary files: {error}. Make {parent} a folder that ComfyUI may "
            "write to, or start ComfyUI with TMPDIR set to another one."
        ) from error
