"""One job on its way through the workers: rebuilt by all, then run by all, or let go of by all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .crew import Crew
from .errors import JobFailed, PoolError
from .messages import Abandon, Cancel, Done, Failed, Prepare, Progress, Renew, Renewed, Run

# After an agreed failure every rank is already on its way out of the job.
AGREED_SECONDS = 10.0
# After any other failure the others meet the same error by now, or wait for a message that will not come.
ALONE_SECONDS = 2.0
# What new connections between the workers may take.
RENEW_SECONDS = 30.0
# A cancelled run ends with the model call it is in, and a video model's call may take minutes.
CANCEL_SECONDS = 600.0


@dataclass(frozen=True)
class JobResult:
    """What the workers returned: rank 0's result and every rank's ledger, by rank."""

    result: bytes
    ledgers: list[dict]


class JobRun:
    """One job. `over`: no worker is busy with it any more, so that the next one may come; False until it is sure."""

    def __init__(self, crew: Crew, job: int, changed: Callable[[], None]) -> None:
        """`changed` is called when the state of a worker is not what it was."""
        self.over = False
        self._changed = changed
        self._crew = crew
        self._job = job
        self._interrupt: BaseException | None = None
        self._deadline = float("inf")

    def prepare(self, payload: bytes, check_interrupt: Callable[[], None]) -> None:
        """Have every worker rebuild the job. Raises as `Pool.run` does."""
        self._set_states("loading")
        self._crew.tell_all(Prepare(self._job, payload))
        waiting = set(range(self._crew.world))
        failures: dict[int, Failed] = {}
        while waiting:
            self._watch(check_interrupt)
            if time.monotonic() > self._deadline:
                raise self._interrupt
            match self._crew.hear():
                case rank, None:
                    raise self._crew.death(rank)
                case rank, message:
                    if isinstance(message, Failed):
                        failures[rank] = message
                    waiting.discard(rank)
                    self._set_states("loaded", rank)
        if failures or self._interrupt is not None:
            self._crew.tell_all(Abandon(self._job))
            self.over = True
            raise self._interrupt or self._crew.failure(*min(failures.items()))

    def collect(self, on_progress: Callable[[int, int, bytes], None], check_interrupt: Callable[[], None]) -> JobResult:
        """Have every worker run the prepared job, and wait for it. Raises as `Pool.run` does."""
        crew = self._crew
        self._set_states("sampling")
        crew.tell_all(Run(self._job))
        ended: dict[int, Done | Failed] = {}
        while len(ended) < crew.world:
            if self._watch(check_interrupt):
                crew.tell_all(Cancel(self._job))
            if time.monotonic() > self._deadline:
                late = ", ".join(worker.name for worker in crew.workers if worker.rank not in ended)
                late_error = PoolError(f"{late} did not end the job; the pool restarts on the next run.")
                raise self._interrupt or self._not_agreed(ended) or late_error
            match crew.hear():
                case rank, None:
                    raise crew.death(rank)
                case _, Progress(step=step, total=total, payload=payload) if self._interrupt is None:
                    if self._watch(on_progress, step, total, payload):
                        crew.tell_all(Cancel(self._job))
                case rank, (Failed() | Done()) as message:
                    ended[rank] = message
                    crew.workers[rank].about = dict(message.about)
                    if isinstance(message, Failed):
                        seconds = AGREED_SECONDS if message.agreed else ALONE_SECONDS
                        self._deadline = min(self._deadline, time.monotonic() + seconds)
        error = self._not_agreed(ended)
        self.over = error is None or self._renew()
        if error is not None:
            raise self._interrupt or error
        failed = {rank: message for rank, message in ended.items() if isinstance(message, Failed)}
        if self._interrupt is not None:
            raise self._interrupt
        if failed:
            raise crew.failure(*min(failed.items()))
        return JobResult(ended[0].result, [ended[rank].ledger for rank in range(crew.world)])

    def _not_agreed(self, ended: dict[int, Done | Failed]) -> JobFailed | None:
        """The first failure of a rank that did not know what the others do."""
        failed = (pair for pair in ended.items() if isinstance(pair[1], Failed) and not pair[1].agreed)
        return next((self._crew.failure(*pair) for pair in failed), None)

    def _renew(self) -> bool:
        """Give the workers new connections: what the job has left on its way goes with the old ones.

        All are out of the job. False where one cannot go on, as its device is of no more use.
        """
        self._crew.tell_all(Renew(str(self._crew.directory / f"rendezvous-{self._job}")))
        deadline = time.monotonic() + RENEW_SECONDS
        waiting = set(range(self._crew.world))
        while waiting and time.monotonic() < deadline:
            match self._crew.hear():
                case rank, None:
                    raise self._crew.death(rank)
                case _, Failed():
                    return False
                case rank, Renewed():
                    waiting.discard(rank)
        return not waiting

    def _set_states(self, state: str, rank: int | None = None) -> None:
        """Of one worker, or of all."""
        for worker in self._crew.workers if rank is None else [self._crew.workers[rank]]:
            worker.state = state
        self._changed()

    def _watch(self, function: Callable[..., None], *arguments: object) -> bool:
        """Call what may interrupt the job, unless that has happened. True if it just did: the workers have to let go.

        The exception is kept until they have.
        """
        if self._interrupt is not None:
            return False
        try:
            function(*arguments)
        except BaseException as error:
            self._interrupt = error
            self._deadline = time.monotonic() + CANCEL_SECONDS
            return True
        return False
