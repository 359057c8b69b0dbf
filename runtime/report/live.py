"""The state of the current runs of this process, with listeners for its changes.

There is one `LiveRun` per pool: the current run, or the last one. The figures of a current run are those of worker 0,
the only ones sent with its progress; once the run is done, its report counts (see history.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

log = logging.getLogger(__name__)


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
