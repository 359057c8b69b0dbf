"""The state of the current runs of this process, with listeners for its changes and texts that describe it.

There is one `LiveRun` per pool: the current run, or the last one. The figures of a current run are those of worker 0,
the only ones sent with its progress; once the run is done, its report counts (see history.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .history import runs

log = logging.getLogger(__name__)

LEAST_RATIO = 1.05
"""From this effective ratio on the result line says how much less data was sent."""
LEAST_SHOWN = 0.001


@dataclass
class LiveRun:
    """The progress of a run.

    `outcome` is "" while the run goes on, then "done", "failed" (`error` says why) or "cancelled". `total` is the
    number of steps, 0 if it is not known. `seconds` are those of the sampler so far, `bytes_sent` and
    `bytes_uncompressed` those of worker 0. `rounds` and `ahead` belong to Step Reuse: the number of rounds evaluated,
    and of calls that were accepted from a round beyond its first call.
    """

    pool: str
    workers: int
    model: str
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_uncompressed: int = 0
    rounds: int | None = None
    ahead: int | None = None
    outcome: str = ""
    error: str = ""
    run_id: str = ""
    result: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields, seconds per step and effective ratio; None for a quotient that does not exist yet."""
        return {
            **asdict(self),
            "seconds_per_step": self.seconds / self.step if self.step else None,
            "effective_ratio": self.bytes_uncompressed / self.bytes_sent if self.bytes_sent else None,
        }


class Live:
    """The runs by pool, and the listeners. Exceptions of a listener are logged, so that a listener cannot end a run."""

    def __init__(self) -> None:
        self._runs: dict[str, LiveRun] = {}
        self._listeners: list[Callable[[], None]] = []
        self._telling = threading.RLock()

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls `listener` at every change of a pool or a run, in the thread that changed it."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Calls the listeners after a change of a pool or a run. One thread calls them at a time, so that the state
        that they see last is the current one."""
        with self._telling:
            for listener in self._listeners:
                try:
                    listener()
                except Exception:
                    log.exception("The panel could not be told of a change.")

    def runs(self) -> list[LiveRun]:
        """The current or last run of every pool."""
        return list(self._runs.values())

    def of(self, pool: str) -> LiveRun | None:
        """The current or last run of the pool of this name."""
        return self._runs.get(pool)

    @contextlib.contextmanager
    def run(self, run: LiveRun, cancelled: type[BaseException]) -> Iterator[LiveRun]:
        """Makes `run` the current run of its pool until the block ends; an exception of type `cancelled` means that the
        user ended it."""
        self._runs[run.pool] = run
        self.changed()
        try:
            yield run
        except BaseException as error:
            run.outcome = "cancelled" if isinstance(error, cancelled) else "failed"
            run.error = "" if run.outcome == "cancelled" else str(error) or type(error).__name__
            raise
        else:
            run.outcome = "done"
        finally:
            self.changed()

    def again(self, run: LiveRun) -> None:
        """Resets a run that begins anew in another way."""
        vars(run).update(vars(LiveRun(run.pool, run.workers, run.model)))
        self.changed()

    def step(self, run: LiveRun, step: int, total: int, figures: dict[str, Any]) -> None:
        """Records that step `step` (from 1) of `total` (0: not known) is done; `figures` are fields of `LiveRun`."""
        run.step, run.total = step, total
        for name, value in figures.items():
            setattr(run, name, value)
        self.changed()


@functools.cache
def live() -> Live:
    """The one `Live` of this process."""
    return Live()


Said = tuple[str, dict[str, Any]]
"""A text with {placeholders} and their values, so that the text can be translated."""


def say(parts: list[Said], words: Mapping[str, str] | None = None) -> str:
    """The parts as one line; `words` has the translations by the English text."""
    return ", ".join((words or {}).get(text, text).format(**values) for text, values in parts)


def result_line(report: dict[str, Any], words: Mapping[str, str] | None = None) -> str:
    """A finished run in one line, with only what this run measured; `words` as for `say`.

    "2 workers, 0.41 s per step, 6.9x less data sent, worst error 0.4 %".
    """
    return say(_result(report), words)


def _result(report: dict[str, Any]) -> list[Said]:
    parts = [_counted(report["workers"], "{count} worker", "{count} workers")]
    if report["fallbacks"]:
        parts[0] = ("One device, without the workers", {})
    if report["steps"]:
        parts.append(("{seconds} s per step", {"seconds": _short(report["sampling_seconds"] / report["steps"])}))
    if report["rounds"] < report["calls"]:
        calls, rounds = report["calls"], report["rounds"]
        text = "{calls} calls in {rounds} round" if rounds == 1 else "{calls} calls in {rounds} rounds"
        parts.append((text, {"calls": calls, "rounds": rounds}))
    if (report["effective_ratio"] or 0) >= LEAST_RATIO:
        parts.append(("{ratio}x less data sent", {"ratio": f"{report['effective_ratio']:.1f}"}))
    if report["max_relative_error"] is not None:
        parts.append(("worst error {percent} %", {"percent": _short(100 * report["max_relative_error"])}))
    if report["warnings"]:
        parts.append(_counted(len(report["warnings"]), "{count} warning", "{count} warnings"))
    return parts


def status_line(run: LiveRun, pool: dict[str, Any] | None, words: Mapping[str, str] | None = None) -> str:
    """The state of a run in a few words; `pool` is the status of its pool, None if there is none (yet)."""
    return say(status(run, pool), words)


def status(run: LiveRun, pool: dict[str, Any] | None) -> list[Said]:
    """The parts of `status_line`, which can be translated."""
    if run.outcome == "done":
        report = runs().find(run.run_id)
        return _result(report) if report is not None else [(run.result, {})]
    if run.outcome == "failed":
        return [("The run failed; the tab Parallel in the sidebar shows why", {})]
    steps = {"step": run.step, "total": run.total}
    if run.outcome == "cancelled":
        text = "Cancelled after step {step} of {total}" if run.total else "Cancelled after step {step}"
        return [(text if run.step else "Cancelled before the first step", steps)]
    return [*_doing(run, pool, steps), *_silent(pool)]


def _silent(pool: dict[str, Any] | None) -> list[Said]:
    """Texts about workers of a run that do not answer."""
    workers = pool["workers"] if pool else []
    silent = [(worker["rank"], worker["silent_seconds"]) for worker in workers if worker.get("silent_seconds")]
    text = "worker {rank} has not answered for {seconds} s"
    return [(text, {"rank": rank, "seconds": seconds}) for rank, seconds in silent]


def _doing(run: LiveRun, pool: dict[str, Any] | None, steps: dict[str, int]) -> list[Said]:
    """Texts about the progress of a current run."""
    if run.step:
        pace = ("{seconds} s per step", {"seconds": _short(run.seconds / run.step)})
        return [("Step {step} of {total}" if run.total else "Step {step}", steps), pace]
    workers = [worker["state"] for worker in pool["workers"]] if pool else []
    count = len(workers)
    if pool and pool["state"] == "starting":
        starting = _counted(count, "Starting {count} worker", "Starting {count} workers")
        return [starting, ("{ready} ready", {"ready": workers.count("idle")})]
    if pool and pool["state"] == "finishing":
        one, more = "Waiting for {count} worker in its last call", "Waiting for {count} workers in their last call"
        return [_counted(workers.count("finishing"), one, more)]
    if "loading" in workers:
        loading = _counted(count, "Loading the model on {count} worker", "Loading the model on {count} workers")
        return [loading, ("{ready} ready", {"ready": workers.count("loaded")})]
    if "sampling" in workers:
        return [_counted(count, "Sampling on {count} worker", "Sampling on {count} workers")]
    return [("Preparing the run", {})]


def _counted(count: int, one: str, more: str) -> Said:
    return (one if count == 1 else more), {"count": count}


def _short(number: float) -> str:
    """A number with two significant digits, never as 1e-05: "0.41", "12", "0.0032"."""
    if 0 < number < LEAST_SHOWN:
        return f"below {LEAST_SHOWN}"
    return f"{number:.0f}" if number >= 9.95 else f"{number:.2g}"
