"""Short words for the tests of the pool: start one, run a job of handlers.py, wait for something to become true."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil

from ...runtime.config import PoolConfig
from ...runtime.pool.job_run import JobResult
from ...runtime.pool.launcher import Launcher
from ...runtime.pool.local.subprocess_launcher import LocalLauncher
from ...runtime.pool.pool import Pool
from ...runtime.pool.worker_group import SILENCE_SECONDS, Entry

WORKERS_GONE_S = 5.0
NOTHING_HANGS_S = 30.0


class Interrupted(Exception):
    """What a check_interrupt or an on_progress of a test raises."""


def nothing(*arguments: Any) -> None:
    """An on_progress or check_interrupt that does not care."""


def new_pool(
    workers: int = 2,
    handler: str = "handlers:Workshop",
    idle_seconds: float = 600.0,
    silence_seconds: float = SILENCE_SECONDS,
    launcher: Launcher | None = None,
    **config: Any,
) -> Pool:
    """A pool of CPU workers, started by `launcher` or as processes of this machine; the caller stops it."""
    entry = Entry(f"tests.pool.{handler}", ("main.py", "--cpu"), {})
    config.setdefault("name", "test")
    asked = PoolConfig(devices=f"cpu*{workers}", **config)
    return Pool(asked, ("cpu",) * workers, entry, idle_seconds, silence_seconds, launcher or LocalLauncher())


def payload_of(job: str, arguments: dict, **extra: Any) -> bytes:
    """A job as Workshop reads it."""
    return json.dumps({"job": job, "arguments": arguments, **extra}).encode()


def run(
    pool: Pool,
    job: str,
    on_progress: Callable[[int, int, bytes], None] = nothing,
    check_interrupt: Callable[[], None] = nothing,
    **arguments: Any,
) -> JobResult:
    """Run one of the jobs of handlers.py."""
    return pool.run(payload_of(job, arguments), on_progress, check_interrupt)


def answers(result: JobResult) -> list[Any]:
    """What the job returned, by rank."""
    return [ledger["answer"] for ledger in result.ledgers]


def works(pool: Pool) -> bool:
    """Whether a job with a collective gives the right sum on every rank."""
    world = pool.world
    return answers(run(pool, "add")) == [world * (world + 1) / 2] * world


def pids(pool: Pool) -> list[int]:
    """The process ids of the workers, by rank."""
    return [worker["pid"] for worker in pool.status()["workers"]]


def gone(processes: Iterable[int]) -> bool:
    """Whether none of these processes runs any more; one that only waits to be reaped does not run."""
    for pid in processes:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WORKERS_GONE_S) -> None:
    """Returns as soon as the condition holds, and fails when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        pause.wait(0.02)


class Background:
    """A call in a thread of its own; `result()` waits for it and returns or raises what it did."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._call, args=(function, arguments, keywords), daemon=True)
        self._thread.start()

    def _call(self, function: Callable[..., Any], arguments: tuple, keywords: dict) -> None:
        try:
            self._outcome = function(*arguments, **keywords)
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, seconds: float = NOTHING_HANGS_S) -> Any:
        self._thread.join(seconds)
        assert not self.running, f"still running after {seconds:g} s"
        if self._error is not None:
            raise self._error
        return self._outcome
