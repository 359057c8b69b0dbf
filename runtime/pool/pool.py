"""The pool: a set of warm worker processes that run one job at a time together."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator

from ..config import PoolConfig
from ..report.live import live
from .errors import PoolError, WorkerSilent
from .finishing import Finishing
from .idle_timer import IdleTimer
from .job_run import CANCEL_SECONDS, JobResult, JobRun
from .launcher import Launcher
from .messages import Park
from .store import Store
from .turn import Turn
from .worker_group import POLL_SECONDS, Entry, WorkerGroup

log = logging.getLogger(__name__)

PARK_SECONDS = 60.0
# A worker that has not answered for this long when a run is cancelled counts as stopped. A mistake costs a restart, not
# a picture.
UNHEARD_SECONDS = 1.5


class Pool:
    """The workers of one `PoolConfig`. Starts on the first run, stays warm, stops after `idle_seconds` without a run.

    Thread-safe: one job at a time, the others wait. `state` is "stopped", "starting", "idle", "sampling", "finishing"
    (a run was cancelled or a parking given up, but a worker is still busy with it) or "failed".
    """

    def __init__(
        self,
        config: PoolConfig,
        devices: tuple[str, ...],
        entry: Entry,
        idle_seconds: float,
        silence_seconds: float,
        launcher: Launcher,
    ) -> None:
        self.config = config
        self.devices = devices
        self.state = "stopped"
        self.error = ""
        self.starts = 0
        self.companions: dict[str, object] = {}  # objects of callers that live as long as the pool
        self._changed = live().changed
        self._group = WorkerGroup(config, devices, entry, launcher, self._changed, silence_seconds)
        self._lock = Turn()
        self._jobs = itertools.count(1)
        self._idle = IdleTimer(idle_seconds, self._stop_if_idle)
        self._finishing: Finishing | None = None  # while the state is "finishing"
        self._anew = ""
        self._dead: frozenset[int] = frozenset()  # the ranks whose death or silence made the pool fail

    @property
    def world(self) -> int:
        """The number of workers."""
        return len(self.devices)

    @property
    def backend(self) -> str:
        """The backend of torch.distributed by which the workers communicate."""
        return self._group.backend

    @property
    def store(self) -> Store | None:
        """The tensors that this process and the workers share; a new one at every start, None while none run."""
        return self._group.store

    @property
    def link(self) -> dict | None:
        """The link between the workers as measured at their last start (see `probe` in worker.JobHandler)."""
        return self._group.link

    @property
    def notices(self) -> tuple[str, ...]:
        """Why idle workers were started anew for the latest use, and why they use gloo in place of nccl, if so."""
        return tuple(filter(None, (self._anew, self._group.notice)))

    def status(self) -> dict:
        """The pool as the routes and the panel show it."""
        stopped = {"pid": None, "state": "stopped", "silent_seconds": 0}
        workers = self._group.statuses() or [
            {"rank": rank, "device": device, **stopped, **({"state": "dead"} if rank in self._dead else {})}
            for rank, device in enumerate(self.devices)
        ]
        return {
            "name": self.config.name,
            "state": self.state,
            "backend": self._group.backend,
            "error": self.error,
            "starts": self.starts,
            "link": self.link,
            "workers": workers,
        }

    def start(self, check_interrupt: Callable[[], None] = lambda: None) -> None:
        """Start the workers unless they run. Raises PoolError or what `check_interrupt` raises; then no worker runs."""
        while not self._lock.acquire(timeout=POLL_SECONDS):
            check_interrupt()
        try:
            self._start(check_interrupt)
        finally:
            self._leave()

    def stop(self) -> None:
        """End all workers, even during a start or a job, which then raises PoolError."""
        self._group.stopping.add(threading.get_ident())
        while not self._lock.acquire(timeout=POLL_SECONDS):
            self._group.kill()  # whoever holds the lock sees the workers end and lets go of it
        try:
            self._stop_workers()
            self._group.retry_nccl()
            self._set_state("stopped")
        finally:
            self._group.stopping.discard(threading.get_ident())
            self._lock.release()

    def restart(self, check_interrupt: Callable[[], None] = lambda: None) -> None:
        """Stop, then start."""
        self.stop()
        self.start(check_interrupt)

    def stop_when_idle_for(self, seconds: float) -> None:
        """Set the idle time; an idle pool starts counting again."""
        self._idle.seconds = seconds
        if self._lock.acquire(blocking=False):
            try:
                if self.state == "idle":
                    self._idle.restart()
            finally:
                self._lock.release()

    def park(
        self,
        interrupted: Callable[[], bool] = lambda: False,
        device: str | None = None,
        nbytes: int | None = None,
    ) -> bool:
        """Make the workers free memory of `device`, or of all. Returns False if the pool is not idle or is in use.

        They free `nbytes` together, each in proportion to what it holds, or all they can (None). Workers that cannot
        are ended, which frees it too. When `interrupted` returns True, nobody waits any more, and the workers go on by
        themselves.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self.state != "idle":
                return False
            self._park(interrupted, device, nbytes)
            return True
        finally:
            self._leave()

    @contextlib.contextmanager
    def reserve(
        self, check_interrupt: Callable[[], None], make_room: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Start the pool if needed and hold it: no other job, parking or idle stop comes until the block ends.

        `make_room` is called before any worker starts, when those that cannot be used any more have ended.
        """
        while not self._lock.acquire(timeout=POLL_SECONDS):
            check_interrupt()
        try:
            self._idle.cancel()
            if self._lock.depth == 1 or self.state != "idle":
                self._start(check_interrupt, make_room)
            yield
        finally:
            if self.state == "idle":
                self._idle.restart()
            self._leave()

    def run(
        self,
        payload: bytes,
        on_progress: Callable[[int, int, bytes], None],
        check_interrupt: Callable[[], None],
        on_prediction: Callable[[int, bytes], None] = lambda call, payload: None,
    ) -> JobResult:
        """Run one job on all workers and wait for it.

        `on_progress(step, total, payload)` and `on_prediction(call, payload)` are called in this thread. An exception
        from the former or from `check_interrupt` cancels the job and is raised again within seconds; a worker in a long
        model call finishes that call by itself, and the next run waits for it. Raises WorkerDied, WorkerSilent or
        JobFailed with the cause.
        """
        with self.reserve(check_interrupt):
            job = JobRun(self._group, next(self._jobs), self._changed)
            self._set_state("sampling")
            try:
                job.prepare(payload, check_interrupt)
                result = job.collect(on_progress, check_interrupt, on_prediction)
            except BaseException as error:
                if job.over:
                    self._set_state("idle")
                elif error is job.interrupt:
                    self._let_go()
                else:
                    self._fail(error)
                    if isinstance(error, PoolError) and job.interrupt is not None:
                        raise job.interrupt from error  # a cancelled run reports the cancel, not the failure
                raise
            self._set_state("idle")
            return result

    def _start(self, check_interrupt: Callable[[], None], make_room: Callable[[], None] = lambda: None) -> None:
        self._anew = ""
        if self.state == "finishing":
            self._finish(check_interrupt)
        # A state such as "sampling" means that this process left a job early (a second Ctrl+C can do that): start anew.
        if self.state == "idle":
            fault = self._group.fault()
            if not fault:
                make_room()
                return
            self._anew = f"{fault} The pool was started anew."
            log.warning("%s", self._anew)
        self._stop_workers()
        self.starts += 1
        self._set_state("starting")
        try:
            make_room()
            self._launch(check_interrupt)
        except BaseException as error:
            self._fail(error)
            raise
        self._set_state("idle")
        self._idle.restart()

    def _launch(self, check_interrupt: Callable[[], None]) -> None:
        try:
            self._group.launch()
            self._group.await_ready(check_interrupt)
        except PoolError as error:
            if not self._group.fall_back(error):
                raise
            self._group.launch()
            self._group.await_ready(check_interrupt)

    def _let_go(self, rest: str = "idle") -> None:
        """Let the workers finish what they are doing in the background; `rest` is their state afterwards.

        If a worker does not even answer (UNHEARD_SECONDS), all are ended.
        """
        silence = self._group.silence(UNHEARD_SECONDS)
        if silence is not None:
            self._fail_untold(silence)
            return
        self._set_state("finishing")
        self._finishing = Finishing(self._group, rest, self._changed)

    def _leave(self) -> None:
        """Release the lock; if the pool is "finishing", a thread holds the lock until the workers are done."""
        if self._lock.depth == 1 and self.state == "finishing":
            self._lock.pass_to(self._finish)
        else:
            self._lock.release()

    def _finish(self, check_interrupt: Callable[[], None] = lambda: None) -> None:
        """Wait until the workers are done. Raises what `check_interrupt` raises; the workers then go on."""
        while not self._finishing.over:
            check_interrupt()
            try:
                self._finishing.hear()
            except PoolError as error:
                self._fail_untold(error)
                return
        self._set_state("idle", workers=self._finishing.rest)
        self._idle.restart()

    def _park(self, interrupted: Callable[[], bool], device: str | None, nbytes: int | None) -> None:
        asked = {member.rank: member for member in self._group.members if device in (None, member.orders.device)}
        held = {rank: member.about.get("device_bytes", 0) for rank, member in asked.items()}
        if nbytes is None:
            orders = dict.fromkeys(asked, Park())
        else:
            part = nbytes / max(1, sum(held.values()))
            orders = {rank: Park(math.ceil(part * own)) for rank, own in held.items() if own}
        self._group.tell(orders)
        rest = "idle" if nbytes is not None or len(asked) < self.world else "parked"
        deadline, given_up = time.monotonic() + PARK_SECONDS, False
        try:
            while self._group.busy and time.monotonic() < deadline:
                if not given_up and interrupted():
                    given_up, deadline = True, min(deadline, time.monotonic() + CANCEL_SECONDS)
                match self._group.hear():
                    case rank, None:
                        raise self._group.death(rank)
        except PoolError as error:
            self._fail_untold(error)
            return
        if not self._group.busy:
            for rank in asked if nbytes is None else ():
                self._group.set_state("parked", rank)
            self._changed()
            return
        if given_up:
            self._let_go(rest)
        else:
            late = f"The workers did not give their memory back within {PARK_SECONDS:g} s and were ended."
            self._fail_untold(PoolError(late))

    def _set_state(
        self, state: str, error: str = "", dead: frozenset[int] = frozenset(), workers: str | None = None
    ) -> None:
        """Set the pool's state and the workers', which is the same unless given."""
        self.state, self.error, self._dead = state, error, dead
        self._group.set_state(workers or state)
        self._changed()

    def _fail(self, error: BaseException) -> None:
        dead = frozenset(member.rank for member in self._group.members if member.ended)
        if isinstance(error, WorkerSilent):
            dead |= {error.rank}
        self._stop_workers()
        self._set_state("failed", str(error) or type(error).__name__, dead)

    def _fail_untold(self, error: PoolError) -> None:
        """Like `_fail`, but logs the error, as there is no caller to raise it to."""
        log.warning("%s", error)
        self._fail(error)

    def _stop_workers(self) -> None:
        self._idle.cancel()
        self._group.end()

    def _stop_if_idle(self) -> None:
        with self._lock:
            if self.state == "idle" and self._idle.due():  # it may have been used while this thread waited for the lock
                log.info("The parallel pool %s was idle and stops.", self.config.name or "default")
                self._stop_workers()
                self._set_state("stopped")
