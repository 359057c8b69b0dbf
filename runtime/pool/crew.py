"""The worker processes of a pool: starts them, sends and receives their messages, watches and ends them."""

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
# When a worker dies, its peers fail in their collectives. Wait this long for the death that explains a failure.
BLAME_SECONDS = 0.5
# Exceptions whose message was written for the user: no traceback makes it clearer.
SENTENCES = (
    "Refused", "RefusedAlone", "NotReturned", "Diverged", "NotFinite", "Cancelled", "ShippingError", "RendezvousLost",
)  # fmt: skip
# The time limit for making new connections between the workers.
RENEW_SECONDS = 30.0
# A worker that does not answer for this long is stopped or hangs. Swapping, a slow disk and native calls that hold the
# interpreter delay an answer by seconds only.
SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Entry:
    """The handler the workers run ("module:attribute" inside the pack), its options and their command line."""

    handler: str
    command_line: tuple[str, ...]
    options: dict


class Crew:
    """The group of worker processes, one per device; empty while none run.

    `busy`: the ranks that have not answered the last message yet. `stopping`: the threads that are ending the workers
    on purpose.
    """

    def __init__(
        self,
        config: PoolConfig,
        devices: tuple[str, ...],
        entry: Entry,
        changed: Callable[[], None],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`changed` is called, in any thread, when a worker stops answering, answers again or ends."""
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
        """The number of workers, running or not."""
        return len(self._devices)

    def launch(self) -> None:
        """Start the processes; call `await_ready` next. Raises PoolError if no folder for their files can be made."""
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
        """Wait until all workers are ready. Raises PoolError or what `check_interrupt` raises, and ends no worker."""
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
            match self._take(POLL_SECONDS):  # a silent worker is shown but no error: start_timeout_s limits the start
                case rank, None:
                    raise self.death(rank)
                case rank, Failed() as failure:
                    raise self.blame(rank, failure)
                case rank, Ready(link=link):
                    self.workers[rank].state = "idle"
                    self.link = link
        self._rendezvous.met()

    def fault(self) -> str:
        """A sentence saying why these idle workers cannot take the next run; "" if they can."""
        for worker in self.workers:
            if worker.exit_code() is not None:
                return f"{worker.name.capitalize()} had ended."
        if (silent := self._silent(self._silence_seconds)) is not None:
            return f"{silent.name.capitalize()} had not answered for {self._heartbeat.silent_seconds(silent.rank):g} s."
        if not self._rendezvous.intact():
            return f"The workers' folder for temporary files, {self.directory}, was removed or changed from outside."
        return ""

    def hear(self, seconds: float = POLL_SECONDS) -> tuple[int, Message | None] | None:
        """Returns (rank, message) for the next message; the message is None if the worker of that rank is gone.

        Returns None if no message comes within `seconds`. Raises WorkerSilent if a worker no longer answers.
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
        """Replace the workers' process groups, which drops messages a job left in flight. No worker may be in a job.

        Returns False if it fails, for example if a device no longer works or the workers' folder is gone. Raises what
        `check_interrupt` raises.
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
        """Each worker's entry in the pool's status; `silent_seconds` is 0 for a short silence (see Heartbeat)."""
        told = self._heartbeat.told_seconds
        return [{**worker.status(), "silent_seconds": told(worker.rank)} for worker in list(self.workers)]

    def _silent(self, seconds: float) -> WorkerProcess | None:
        """The worker that has not answered for the longest time, if that is `seconds` or more."""
        silence = self._heartbeat.silent_seconds
        longest = max(self.workers, key=lambda worker: silence(worker.rank), default=None)
        return longest if longest is not None and silence(longest.rank) >= seconds else None

    def set_state(self, state: str) -> None:
        """Set the state that the status shows for every worker."""
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
        """The error to report for a failure: the death of another worker if that caused it, else the failure itself."""
        deadline = time.monotonic() + BLAME_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            match self.hear(left):
                case other, None:
                    return self.death(other)
        return self.failure(rank, failure)

    def failure(self, rank: int, failure: Failed) -> JobFailed:
        """The error for a Failed message from a worker."""
        # The exceptions in SENTENCES have a message for the user; any other is a bug, which its traceback helps find.
        traceback = "" if failure.kind in SENTENCES else failure.traceback
        return JobFailed(failure.kind, failure.error, self.workers[rank].name, traceback)

    def silence(self, seconds: float) -> PoolError | None:
        """The error for a worker that has not answered for `seconds`; None if all have, or they are being stopped."""
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
        """The error for a worker process that has ended."""
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
    """Make a folder for the workers' files in the system's temporary folder, which is created if it was removed."""
    parent = Path(tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="compact-parallel-", dir=parent))
    except OSError as error:
        raise PoolError(
            f"There is no place for the workers' temporary files: {error}. Make {parent} a folder that ComfyUI may "
            "write to, or start ComfyUI with TMPDIR set to another one."
        ) from error
