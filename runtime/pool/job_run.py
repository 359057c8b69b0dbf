"""One job on its way through the workers: rebuilt by all, then run by all, or let go of by all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .crew import Crew
from .errors import JobFailed, PoolError
from .messages import Abandon, Cancel, Done, Failed, Message, Prepare, Progress, Run

# After an agreed failure every rank is already on its way out of the job.
AGREED_SECONDS = 10.0
# After any other failure the others meet the same error by now, or wait for a message that will not come.
ALONE_SECONDS = 2.0
# For as long a cancelled run waits for its workers to let go, which most do at once. A model call may take minutes
# more; the workers then finish it by themselves, and whoever cancelled need not wait.
CANCEL_SECONDS = 2.5


@dataclass(frozen=True)
class JobResult:
    """What the workers returned: rank 0's result and every rank's ledger, by rank."""

    result: bytes
    ledgers: list[dict]


class JobRun:
    """One job. `over`: no worker is busy with it any more, so that the next one may come; False until it is sure.

    `interrupt` is what has cancelled it: raised once the job is over, or after CANCEL_SECONDS, with workers that are
    still on their way out.
    """

    def __init__(self, crew: Crew, job: int, changed: Callable[[], None]) -> None:
        """`changed` is called when the state of a worker is not what it was."""
        self.over = False
        self.interrupt: BaseException | None = None
        self._changed = changed
        self._crew = crew
        self._job = job
        self._ended: dict[int, Done | Failed] = {}
        self._deadline = float("inf")

    def prepare(self, payload: bytes, check_interrupt: Callable[[], None]) -> None:
        """Have every worker rebuild the job. Raises as `Pool.run` does."""
        self._set_states("loading")
        self._crew.tell_all(Prepare(self._job, payload))
        failures: dict[int, Failed] = {}
        while self._crew.busy:
            match self._next(check_interrupt, Abandon(self._job)):
                case rank, message:
                    if isinstance(message, Failed):
                        failures[rank] = message
                    self._set_states("loaded", rank)
        self.over = bool(failures) or self.interrupt is not None
        if self.interrupt is not None:
            raise self.interrupt
        if failures:
            self._crew.tell_all(Abandon(self._job))
            raise self._crew.failure(*min(failures.items()))

    def collect(self, on_progress: Callable[[int, int, bytes], None], check_interrupt: Callable[[], None]) -> JobResult:
        """Have every worker run the prepared job, and wait for it. Raises as `Pool.run` does."""
        crew, cancel = self._crew, Cancel(self._job)
        self._set_states("sampling")
        crew.tell_all(Run(self._job))
        ended = self._ended
        while crew.busy:
            match self._next(check_interrupt, cancel):
                case _, Progress(step=step, total=total, payload=payload):
                    self._watch(cancel, on_progress, step, total, payload)
                case rank, (Failed() | Done()) as message:
                    ended[rank] = message
                    if isinstance(message, Failed):
                        seconds = AGREED_SECONDS if message.agreed else ALONE_SECONDS
                        self._deadline = min(self._deadline, time.monotonic() + seconds)
        error = self._not_agreed()
        self.over = error is None or crew.renew(check_interrupt)
        if self.interrupt is not None:
            raise self.interrupt
        if error is not None:
            raise error
        failed = {rank: message for rank, message in ended.items() if isinstance(message, Failed)}
        if failed:
            raise crew.failure(*min(failed.items()))
        return JobResult(ended[0].result, [ended[rank].ledger for rank in range(crew.world)])

    def _not_agreed(self) -> JobFailed | None:
        """The first failure of a rank that did not know what the others do."""
        failed = (pair for pair in self._ended.items() if isinstance(pair[1], Failed) and not pair[1].agreed)
        return next((self._crew.failure(*pair) for pair in failed), None)

    def _next(self, check_interrupt: Callable[[], None], let_go: Message) -> tuple[int, Message] | None:
        """The next message, if one comes soon. `let_go` is what to tell the workers when the job is cancelled."""
        self._watch(let_go, check_interrupt)
        if time.monotonic() > self._deadline:
            late = ", ".join(self._crew.workers[rank].name for rank in sorted(self._crew.busy))
            late_error = PoolError(f"{late} did not end the job; the pool restarts on the next run.")
            raise self._not_agreed() or self.interrupt or late_error
        match self._crew.hear():
            case rank, None:
                raise self._crew.death(rank)
            case heard:
                return heard

    def _set_states(self, state: str, rank: int | None = None) -> None:
        """Of one worker, or of all."""
        for worker in self._crew.workers if rank is None else [self._crew.workers[rank]]:
            worker.state = state
        self._changed()

    def _watch(self, let_go: Message, function: Callable[..., None], *arguments: object) -> None:
        """Call what may interrupt the job, unless that has happened. If it does, the workers are told to let go."""
        if self.interrupt is not None:
            return
        try:
            function(*arguments)
        except BaseException as error:
            self.interrupt = error
            self._deadline = time.monotonic() + CANCEL_SECONDS
            self._crew.tell_all(let_go)
