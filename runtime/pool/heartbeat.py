"""Whether the workers still answer: each is asked again and again, whatever the pool and the workers are busy with.

A worker's inbox answers at once, in a thread beside the model call. So one that does not answer is stopped, or hangs
where the interpreter cannot go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .launcher import WorkerProcess
from .messages import Ping, encode

PERIOD_SECONDS = 0.5
# A shorter silence is nothing to tell people: a native call may hold the interpreter, or the machine be busy.
TOLD_SECONDS = 3.0


@dataclass
class _Pulse:
    """`heard`: at least once, so its imports are done. `missed`: periods that the last Ping is without an answer."""

    heard: bool = False
    asked: bool = False
    missed: int = 0


class Heartbeat:
    """Asks every worker every PERIOD_SECONDS, unless its last answer is still to come: no pipe fills with Pings.

    Silence is counted in periods of this thread and not by a clock: where this process stood still itself (Ctrl+Z, a
    call that holds the interpreter), no worker is blamed. It begins when a worker was heard for the first time.
    """

    def __init__(self, world: int, changed: Callable[[], None]) -> None:
        """`changed` is called when what there is to tell has changed: seconds of silence, or that a worker ended."""
        self._changed = changed
        self._pulses = [_Pulse() for _ in range(world)]
        self._workers: Sequence[WorkerProcess] = ()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self, workers: Sequence[WorkerProcess]) -> None:
        """Ask from now on."""
        self._workers = workers
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=PERIOD_SECONDS)

    def heard(self, rank: int) -> None:
        """A message of this worker came."""
        with self._lock:
            self._pulses[rank] = _Pulse(heard=True)

    def silent_seconds(self, rank: int) -> float:
        """For how long a worker has not answered; 0.0 for one that does."""
        return self._pulses[rank].missed * PERIOD_SECONDS

    def told_seconds(self, rank: int) -> int:
        """The same as people are told it: whole seconds, 0 for a moment."""
        seconds = self.silent_seconds(rank)
        return int(seconds) if seconds >= TOLD_SECONDS else 0

    def _beat(self) -> None:
        told = self._to_tell()
        while not self._ended.wait(PERIOD_SECONDS):
            for worker in self._workers:
                self._ask(worker)
            if told != (told := self._to_tell()):
                self._changed()

    def _ask(self, worker: WorkerProcess) -> None:
        with self._lock:
            pulse = self._pulses[worker.rank]
            if worker.exit_code() is not None:
                pulse.missed = 0
                return
            if pulse.asked:
                pulse.missed += pulse.heard
                return
            pulse.asked = True
        worker.send(encode(Ping()))

    def _to_tell(self) -> list[tuple[int, bool]]:
        return [(self.told_seconds(worker.rank), worker.exit_code() is None) for worker in self._workers]
