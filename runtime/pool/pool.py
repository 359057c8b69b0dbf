"""The pool: a set of warm worker processes that run one job at a time together."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..config import PoolConfig
from ..report.live import live
from .crew import POLL_SECONDS, Crew, Entry
from .errors import PoolError
from .job_run import JobResult, JobRun
from .messages import Park, Parked

log = logging.getLogger(__name__)

PARK_SECONDS = 60.0


class Pool:
    """The workers of one `PoolConfig`. Starts on the first run, stays warm, stops after `idle_seconds` without a run.

    Thread-safe: one job at a time, the others wait.
    """

    def __init__(self, config: PoolConfig, devices: tuple[str, ...], entry: Entry, idle_seconds: float) -> None:
        self.config = config
        self.devices = devices
        self.state = "stopped"
        self.error = ""
        self.starts = 0
        self.companions: dict[str, object] = {}  # what callers keep for as long as they keep the pool
        self._crew = Crew(config, devices, entry)
        self._idle_seconds = idle_seconds
        self._lock = threading.RLock()
        self._jobs = itertools.count(1)
        self._idle_timer: threading.Timer | None = None
        self._dead: set[int] = set()  # the workers whose end ended the others

    @property
    def world(self) -> int:
        """The number of workers."""
        return len(self.devices)

    @property
    def directory(self) -> Path | None:
        """Where files for the workers go; it exists as long as they do."""
        return self._crew.directory

    @property
    def link(self) -> dict | None:
        """What the workers' handler measured between them at their last start (see worker.Handler.probe)."""
        return self._crew.link

    def status(self) -> dict:
        """The pool as the routes and the panel show it."""
        workers = [worker.status() for worker in self._crew.workers] or [
            {"rank": rank, "device": device, "pid": None, "state": "dead" if rank in self._dead else "stopped"}
            for rank, device in enumerate(self.devices)
        ]
        return {
            "name": self.config.name,
            "state": self.state,
            "backend": self._crew.backend,
            "error": self.error,
            "starts": self.starts,
            "link": self.link,
            "workers": workers,
        }

    def start(self, check_interrupt: Callable[[], None] = lambda: None) -> None:
        """Start the workers unless they run. Raises PoolError, or what `check_interrupt` raises; then none is left."""
        with self._lock:
            # In any other state a job was left before its workers were: a second Ctrl+C can do that.
            if self.state == "idle" and all(worker.exit_code() is None for worker in self._crew.workers):
                return
            self._stop_workers()
            self.starts += 1
            self._set_state("starting")
            try:
                self._crew.launch()
                self._crew.await_ready(self._telling(check_interrupt))
            except BaseException as error:
                self._fail(error)
                raise
            self._set_state("idle")
            self._restart_idle_timer()

    def stop(self) -> None:
        """End all workers, also in the middle of a start or a job, which then raises PoolError."""
        self._crew.stopping = True
        while not self._lock.acquire(timeout=POLL_SECONDS):
            self._crew.kill()  # whoever holds the lock sees the workers end and lets go of it
        try:
            self._stop_workers()
            self._set_state("stopped")
        finally:
            self._crew.stopping = False
            self._lock.release()

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def stop_when_idle_for(self, seconds: float) -> None:
        """Another idle time, from now on; a pool that is idle begins to count again."""
        self._idle_seconds = seconds
        if self._lock.acquire(blocking=False):
            try:
                if self.state == "idle":
                    self._restart_idle_timer()
            finally:
                self._lock.release()

    def park(self) -> bool:
        """Make the workers give their devices' memory back. False where there is nothing to park or a job runs."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self.state != "idle":
                return False
            self._park()
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
            job = JobRun(self._crew, next(self._jobs), live().changed)
            self._set_state("sampling")
            try:
                job.prepare(payload, check_interrupt)
                result = job.collect(on_progress, check_interrupt)
            except BaseException as error:
                if job.over:
                    self._set_state("idle")
                else:
                    self._fail(error)
                raise
            self._set_state("idle")
            return result

    def _park(self) -> None:
        self._crew.tell_all(Park())
        deadline = time.monotonic() + PARK_SECONDS
        waiting = {worker.rank for worker in self._crew.workers}
        while waiting:
            match self._crew.hear(deadline - time.monotonic()):
                case rank, Parked(device_bytes=held):
                    waiting.discard(rank)
                    self._crew.workers[rank].about["device_bytes"] = held
                case rank, None:
                    self._fail(self._crew.death(rank))
                    return
                case None:
                    error = PoolError("The workers did not give their memory back; the pool restarts on the next run.")
                    self._fail(error)
                    raise error
        self._crew.set_state("parked")
        live().changed()

    def _set_state(self, state: str, error: str = "", dead: Iterable[int] = ()) -> None:
        self.state, self.error, self._dead = state, error, set(dead)
        self._crew.set_state(state)
        live().changed()

    def _fail(self, error: BaseException) -> None:
        dead = [worker.rank for worker in self._crew.workers if worker.exit_code() is not None]
        self._stop_workers()
        self._set_state("failed", str(error) or type(error).__name__, dead)

    def _telling(self, check_interrupt: Callable[[], None]) -> Callable[[], None]:
        """`check_interrupt`, which is called again and again while workers start, made to tell of their states too."""
        told: list[str] = []

        def check() -> None:
            states = [worker.state for worker in self._crew.workers]
            if told != states:
                told[:] = states
                live().changed()
            check_interrupt()

        return check

    def _stop_workers(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._crew.end()

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
                self._set_state("stopped")
