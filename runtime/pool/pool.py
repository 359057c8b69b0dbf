"""The pool: a set of warm worker processes that run one job at a time together."""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import PoolConfig
from .errors import JobFailed, PoolError, WorkerDied
from .launcher import WorkerProcess
from .messages import Abandon, Cancel, Done, Failed, Message, Park, Parked, Prepare, Progress, Ready, Run
from .worker import Orders

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
# A worker that dies makes its peers fail in their collectives; wait this long for the death that explains the failure.
BLAME_SECONDS = 0.5
# After an agreed failure every rank is already on its way out of the job.
AGREED_SECONDS = 10.0
# A cancelled run ends with the model call it is in, and a video model's call may take minutes.
CANCEL_SECONDS = 600.0
PARK_SECONDS = 60.0
# Exceptions whose message was written for the user: no traceback makes it clearer.
SENTENCES = ("Refused", "Diverged", "NotFinite", "Cancelled", "ShippingError")


@dataclass(frozen=True)
class JobResult:
    """What the workers returned: rank 0's result and every rank's ledger, by rank."""

    result: bytes
    ledgers: list[dict]


@dataclass(frozen=True)
class Entry:
    """What the workers run: "module:attribute" of the handler inside the pack, its options and the command line."""

    handler: str
    command_line: tuple[str, ...]
    options: dict


class Pool:
    """The workers of one `PoolConfig`. Starts on the first run, stays warm, stops after `idle_seconds` without a run.

    Thread-safe: one job at a time, the others wait.
    """

    def __init__(self, config: PoolConfig, devices: tuple[str, ...], entry: Entry, idle_seconds: float) -> None:
        self.config = config
        self.devices = devices
        self.backend = config.resolve_backend(devices)
        self.state = "stopped"
        self.error = ""
        self.starts = 0
        self.directory: Path | None = None
        self.companions: dict[str, object] = {}  # what callers keep for as long as they keep the pool
        self._entry = entry
        self._idle_seconds = idle_seconds
        self._lock = threading.RLock()
        self._workers: list[WorkerProcess] = []
        self._events: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._jobs = itertools.count(1)
        self._idle_timer: threading.Timer | None = None
        self._stopping = False

    @property
    def world(self) -> int:
        """The number of workers."""
        return len(self.devices)

    def status(self) -> dict:
        """The pool as the routes and the panel show it."""
        workers = [worker.status() for worker in self._workers] or [
            {"rank": rank, "device": device, "pid": None, "state": "stopped"}
            for rank, device in enumerate(self.devices)
        ]
        return {
            "name": self.config.name,
            "state": self.state,
            "backend": self.backend,
            "error": self.error,
            "starts": self.starts,
            "workers": workers,
        }

    def start(self, check_interrupt: Callable[[], None] = lambda: None) -> None:
        """Start the workers unless they run. Raises PoolError, or what `check_interrupt` raises; then none is left."""
        with self._lock:
            # In any other state a job was left before its workers were: a second Ctrl+C can do that.
            if self.state == "idle" and all(worker.exit_code() is None for worker in self._workers):
                return
            self._stop_workers()
            self.state, self.error = "starting", ""
            self.starts += 1
            try:
                self._launch()
                self._await_ready(check_interrupt)
            except BaseException as error:
                self._fail(error)
                raise
            self.state = "idle"
            self._restart_idle_timer()

    def stop(self) -> None:
        """End all workers, also in the middle of a start or a job, which then raises PoolError."""
        self._stopping = True
        while not self._lock.acquire(timeout=POLL_SECONDS):
            for worker in list(self._workers):
                worker.kill()  # whoever holds the lock sees its workers end and lets go of it
        try:
            self._stop_workers()
            self.state, self.error = "stopped", ""
        finally:
            self._stopping = False
            self._lock.release()

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def park(self) -> bool:
        """Make the workers give their devices' memory back. False where there is nothing to park or a job runs."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self.state != "idle":
                return False
            self._broadcast(Park())
            deadline = time.monotonic() + PARK_SECONDS
            waiting = {worker.rank for worker in self._workers}
            while waiting:
                match self._next_event(deadline, "The workers did not give their memory back"):
                    case (rank, Parked(device_bytes=held)):
                        waiting.discard(rank)
                        self._workers[rank].about["device_bytes"] = held
                    case (rank, None):
                        self._fail(self._death(rank))
                        return True
            for worker in self._workers:
                worker.state = "parked"
            return True
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def reserve(self, check_interrupt: Callable[[], None]) -> Iterator[None]:
        """Hold the started pool: no other job, no parking and no idle stop until the block ends."""
        while not self._lock.acquire(timeout=POLL_SECONDS):
            check_interrupt()
        try:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self.start(check_interrupt)
            yield
        finally:
            if self.state == "idle":
                self._restart_idle_timer()
            self._lock.release()

    def run(
        self,
        payload: bytes,
        on_progress: Callable[[int, int, bytes], None],
        check_interrupt: Callable[[], None],
    ) -> JobResult:
        """Run one job on all workers and wait for it.

        `on_progress(step, total, payload)` is called in this thread. What it or `check_interrupt` raises cancels the
        job and is raised again once the workers have let go. Raises WorkerDied or JobFailed with the cause.
        """
        with self.reserve(check_interrupt):
            job = next(self._jobs)
            self._set_state("sampling")
            try:
                self._prepare(job, payload, check_interrupt)
                result = self._collect(job, on_progress, check_interrupt)
            except BaseException as error:
                if self.state == "sampling":
                    self._fail(error)
                raise
            self._set_state("idle")
            return result

    def _launch(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="compact-parallel-"))
        cpu_workers = max(1, self.devices.count("cpu"))
        events = self._events = queue.SimpleQueue()
        for rank, device in enumerate(self.devices):
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
            self._workers.append(
                WorkerProcess(orders, cpu_workers, command_line, lambda rank, message: events.put((rank, message)))
            )

    def _await_ready(self, check_interrupt: Callable[[], None]) -> None:
        deadline = time.monotonic() + self.config.start_timeout_s
        waiting = {worker.rank for worker in self._workers}
        while waiting:
            check_interrupt()
            for worker in self._workers:
                if worker.exit_code() is not None:
                    raise self._death(worker.rank)
            if time.monotonic() > deadline:
                names = ", ".join(self._workers[rank].name for rank in sorted(waiting))
                raise PoolError(
                    f"start_timeout_s: {names} did not start within {self.config.start_timeout_s:g} s; "
                    f"raise start_timeout_s or see the log.\n{self._workers[min(waiting)].log_tail()}"
                )
            with contextlib.suppress(queue.Empty):
                rank, message = self._events.get(timeout=POLL_SECONDS)
                if message is None:
                    raise self._death(rank)
                if isinstance(message, Ready):
                    self._workers[rank].about = dict(message.about)
                    self._workers[rank].state = "idle"
                    waiting.discard(rank)

    def _prepare(self, job: int, payload: bytes, check_interrupt: Callable[[], None]) -> None:
        self._broadcast(Prepare(job, payload))
        waiting = set(range(self.world))
        failures: dict[int, Failed] = {}
        interrupt: BaseException | None = None
        deadline = float("inf")
        while waiting:
            if interrupt is None:
                interrupt = _raised_by(check_interrupt)
                if interrupt is not None:
                    deadline = time.monotonic() + CANCEL_SECONDS
            if time.monotonic() > deadline:
                raise interrupt
            with contextlib.suppress(queue.Empty):
                rank, message = self._events.get(timeout=POLL_SECONDS)
                match message:
                    case None:
                        raise self._death(rank)
                    case Failed():
                        failures[rank] = message
                waiting.discard(rank)
        if failures or interrupt is not None:
            self._broadcast(Abandon(job))
            self._set_state("idle")
            raise interrupt or self._job_failed(*min(failures.items()))

    def _collect(
        self, job: int, on_progress: Callable[[int, int, bytes], None], check_interrupt: Callable[[], None]
    ) -> JobResult:
        self._broadcast(Run(job))
        ended: dict[int, Done | Failed] = {}
        interrupt: BaseException | None = None
        deadline = float("inf")
        while len(ended) < self.world:
            if interrupt is None:
                interrupt = _raised_by(check_interrupt)
                if interrupt is not None:
                    deadline = self._cancel(job)
            if time.monotonic() > deadline:
                late = ", ".join(w.name for w in self._workers if w.rank not in ended)
                raise interrupt or PoolError(f"{late} did not end the job; the pool restarts on the next run.")
            try:
                rank, message = self._events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            match message:
                case None:
                    raise self._death(rank)
                case Progress(step=step, total=total, payload=payload) if interrupt is None:
                    interrupt = _raised_by(on_progress, step, total, payload)
                    if interrupt is not None:
                        deadline = self._cancel(job)
                case Failed(agreed=False):
                    raise self._blame(rank, message)
                case Failed() | Done():
                    ended[rank] = message
                    self._workers[rank].about = dict(message.about)
                    if isinstance(message, Failed):
                        deadline = min(deadline, time.monotonic() + AGREED_SECONDS)
        self._set_state("idle")
        failed = {rank: message for rank, message in ended.items() if isinstance(message, Failed)}
        if interrupt is not None:
            raise interrupt
        if failed:
            raise self._job_failed(*min(failed.items()))
        return JobResult(ended[0].result, [ended[rank].ledger for rank in range(self.world)])

    def _cancel(self, job: int) -> float:
        self._broadcast(Cancel(job))
        return time.monotonic() + CANCEL_SECONDS

    def _blame(self, rank: int, failure: Failed) -> PoolError:
        """The death behind a failure where there is one: its peers only saw their connection close."""
        deadline = time.monotonic() + BLAME_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                other, message = self._events.get(timeout=left)
                if message is None:
                    return self._death(other)
        return self._job_failed(rank, failure)

    def _job_failed(self, rank: int, failure: Failed) -> JobFailed:
        # An agreed failure is a sentence for the user; any other is a bug somewhere, and its traceback finds it.
        traceback = "" if failure.kind in SENTENCES else failure.traceback
        return JobFailed(failure.kind, failure.error, self._workers[rank].name, traceback)

    def _death(self, rank: int) -> PoolError:
        if self._stopping:
            return PoolError(f"The parallel pool {self.config.name or 'default'} was stopped while it was in use.")
        worker = self._workers[rank]
        worker.kill()
        worker.join()
        code = worker.exit_code()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerDied(
            f"{worker.name.capitalize()}, process {worker.pid}, ended with {how}; the pool restarts on the next run."
            f"\nIts last words:\n{worker.log_tail()}"
        )

    def _next_event(self, deadline: float, complaint: str) -> tuple[int, Message | None]:
        try:
            return self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            error = PoolError(f"{complaint}; the pool restarts on the next run.")
            self._fail(error)
            raise error from None

    def _broadcast(self, message: Message) -> None:
        for worker in self._workers:
            worker.send(message)

    def _set_state(self, state: str) -> None:
        self.state = state
        for worker in self._workers:
            worker.state = state

    def _fail(self, error: BaseException) -> None:
        self._stop_workers()
        self.state, self.error = "failed", str(error) or type(error).__name__

    def _stop_workers(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        self._workers = []
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    def _restart_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = threading.Timer(self._idle_seconds, self._stop_if_idle)
        self._idle_timer.daemon = True
        self._idle_timer.start()

    def _stop_if_idle(self) -> None:
        with self._lock:
            # A timer that was replaced while it waited for the lock has nothing to say any more.
            if self.state == "idle" and self._idle_timer is threading.current_thread():
                log.info("The parallel pool %s was idle and stops.", self.config.name or "default")
                self._stop_workers()
                self.state = "stopped"


def _raised_by(function: Callable[..., None], *arguments: object) -> BaseException | None:
    """The exception a call raises, None if it returns: an interrupt is kept until the workers have let go."""
    try:
        function(*arguments)
    except BaseException as error:
        return error
    return None
