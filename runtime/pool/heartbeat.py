"""The heartbeat: pings every worker regularly, also while it runs a job, and counts for how long it has not answered.

A worker's inbox thread answers at once, even during a model call. A worker that does not answer is therefore stopped,
or hangs in a place that blocks the interpreter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .launcher import WorkerHandle
from .messages import Ping, encode

PERIOD_SECONDS = 0.5
# A shorter silence is not shown: a native call may hold the interpreter, or the machine may be busy.
TOLD_SECONDS = 3.0


@dataclass
class _Pulse:
    """`heard`: a message has come, so the imports are done. `asked`: a Ping is unanswered. `missed`: for how many
    periods it has been."""

    heard: bool = False
    asked: bool = False
    missed: int = 0


class Heartbeat:
    """Pings every worker every PERIOD_SECONDS, unless its last Ping is still unanswered, so that no pipe fills.

    Silence is counted in periods of this thread, not by a clock: if this process itself was paused (Ctrl+Z, a call that
    holds the interpreter), no worker is blamed. Counting begins after the worker's first message.
    """

    def __init__(self, world: int, changed: Callable[[], None]) -> None:
        """`changed` is called when a worker's shown seconds of silence change, or a worker ends."""
        self._changed = changed
        self._pulses = [_Pulse() for _ in range(world)]
        self._workers: Sequence[WorkerHandle] = ()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self, workers: Sequence[WorkerHandle]) -> None:
        """Start pinging these workers, which are in the order of their ranks."""
        self._workers = workers
        self._thread.start()

    def end(self) -> None:
        """Stop pinging."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=PERIOD_SECONDS)

    def heard(self, rank: int) -> None:
        """Record that a message of this worker has come."""
        with self._lock:
            self._pulses[rank] = _Pulse(heard=True)

    def silent_seconds(self, rank: int) -> float:
        """For how many seconds a worker has not answered; 0.0 if it answers."""
        return self._pulses[rank].missed * PERIOD_SECONDS

    def told_seconds(self, rank: int) -> int:
        """The silence as it is shown to people: whole seconds, 0 below TOLD_SECONDS."""
        seconds = self.silent_seconds(rank)
        return int(seconds) if seconds >= TOLD_SECONDS else 0

    def _beat(self) -> None:
        told = self._to_tell()
        while not self._ended.wait(PERIOD_SECONDS):
            for rank, worker in enumerate(self._workers):
                self._ask(rank, worker)
            if told != (told := self._to_tell()):
                self._changed()

    def _ask(self, rank: int, worker: WorkerHandle) -> None:
        with self._lock:
            pulse = self._pulses[rank]
            if worker.exit_code() is not None:
                pulse.missed = 0
                return
            if pulse.asked:
                pulse.missed += pulse.heard
                return
            pulse.asked = True
        worker.send(encode(Ping()))

    def _to_tell(self) -> list[tuple[int, bool]]:
        return [(self.told_seconds(rank), worker.exit_code() is None) for rank, worker in enumerate(self._workers)]
