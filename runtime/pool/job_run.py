"""Runs one job on the workers: all rebuild it, then all run it, or all abandon it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import PoolError
from .messages import Abandon, Cancel, Done, Failed, Message, Predicted, Prepare, Progress, Run
from .worker_group import WorkerGroup

# Wait after an agreed failure: every rank is already leaving the job.
AGREED_SECONDS = 10.0
# Wait after any other failure: the other ranks raise the same error now, or wait for a message that will never come.
ALONE_SECONDS = 2.0
# A cancelled run waits this long for its workers to leave the job, which most do at once. A model call may take minutes
# more; the workers then finish it by themselves, and whoever cancelled need not wait.
CANCEL_SECONDS = 2.5


@dataclass(frozen=True)
class JobResult:
    """The result of rank 0 and the ledgers of all ranks, by rank."""

    result: bytes
    ledgers: list[dict]


class JobRun:
    """One job. `over`: certainly no worker is busy with it any more, so that the next job may start.

    `interrupt` is the exception that cancelled the job. It is raised once the job is over, or after CANCEL_SECONDS,
    when some workers may still be leaving the job.
    """

    def __init__(self, group: WorkerGroup, job: int, changed: Callable[[], None]) -> None:
        """`changed` is called when the state of a worker changes."""
        self.over = False
        self.interrupt: BaseException | None = None
        self._changed = changed
        self._group = group
        self._job = job
        self._ended: dict[int, Done | Failed] = {}
        self._deadline = float("inf")

    def prepare(self, payload: bytes, check_interrupt: Callable[[], None]) -> None:
        """Have every worker rebuild the job. Raises as `Pool.run` does."""
        self._set_states("loading")
        self._group.tell_all(Prepare(self._job, payload))
        failures: dict[int, Failed] = {}
        while self._group.busy:
            match self._next(check_interrupt, Abandon(self._job)):
                case rank, message:
                    if isinstance(message, Failed):
                        failures[rank] = message
                    self._set_states("loaded", rank)
        self.over = bool(failures) or self.interrupt is not None
        if self.interrupt is not None:
            raise self.interrupt
        if failures:
            self._group.tell_all(Abandon(self._job))
            raise self._group.failure(*min(failures.items()))

    def collect(
        self,
        on_progress: Callable[[int, int, bytes], None],
        check_interrupt: Callable[[], None],
        on_prediction: Callable[[int, bytes], None],
    ) -> JobResult:
        """Have every worker run the prepared job, and wait for it. Raises as `Pool.run` does."""
        group, cancel = self._group, Cancel(self._job)
        self._set_states("sampling")
        group.tell_all(Run(self._job))
        ended = self._ended
        while group.busy:
            match self._next(check_interrupt, cancel):
                case _, Progress(step=step, total=total, payload=payload):
                    self._watch(cancel, on_progress, step, total, payload)
                case _, Predicted(call=call, payload=payload):
                    on_prediction(call, payload)
                case rank, (Failed() | Done()) as message:
                    ended[rank] = message
                    if isinstance(message, Failed):
                        seconds = AGREED_SECONDS if message.agreed else ALONE_SECONDS
                        self._deadline = min(self._deadline, time.monotonic() + seconds)
        error = self._not_agreed()
        self.over = error is None or group.renew(check_interrupt)
        if self.interrupt is not None:
            raise self.interrupt
        if error is not None:
            raise error
        failed = {rank: message for rank, message in ended.items() if isinstance(message, Failed)}
        if failed:
            raise group.failure(*min(failed.items()))
        return JobResult(ended[0].result, [ended[rank].ledger for rank in range(group.world)])

    def _not_agreed(self) -> PoolError | None:
        """The first failure that was not agreed between the ranks, if any."""
        failed = (pair for pair in self._ended.items() if isinstance(pair[1], Failed) and not pair[1].agreed)
        return next((self._group.failure(*pair) for pair in failed), None)

    def _next(self, check_interrupt: Callable[[], None], let_go: Message) -> tuple[int, Message] | None:
        """The next message, if one comes soon. `let_go` is the message sent to the workers if the job is cancelled."""
        self._watch(let_go, check_interrupt)
        if time.monotonic() > self._deadline:
            late_error = PoolError(f"{self._group.late()} did not end the job; the pool restarts on the next run.")
            raise self._not_agreed() or self.interrupt or late_error
        match self._group.hear():
            case rank, None:
                raise self._group.death(rank)
            case heard:
                return heard

    def _set_states(self, state: str, rank: int | None = None) -> None:
        """Show the state of one worker, or of all."""
        self._group.set_state(state, rank)
        self._changed()

    def _watch(self, let_go: Message, function: Callable[..., None], *arguments: object) -> None:
        """Call a function that may interrupt the job by raising; the workers are then sent `let_go`.

        Does nothing if the job was interrupted before.
        """
        if self.interrupt is not None:
            return
        try:
            function(*arguments)
        except BaseException as error:
            self.interrupt = error
            self._deadline = time.monotonic() + CANCEL_SECONDS
            self._group.tell_all(let_go)
