"""Waits, between jobs, for workers that are still busy with a cancelled job or with a parking that was given up."""

from __future__ import annotations

import time
from collections.abc import Callable

from .errors import PoolError
from .messages import Failed
from .worker_group import WorkerGroup

# The limit for workers to finish the call they were in when cancelled, minutes for a video model. A waiter can give up.
FINISH_SECONDS = 600.0


class Finishing:
    """Follows the workers until none is busy: a busy one has the state "finishing", one that is done the state `rest`.

    Call `hear` again and again until `over`.
    """

    def __init__(self, group: WorkerGroup, rest: str, changed: Callable[[], None]) -> None:
        """`changed` is called when the state of a worker changes. The time limit counts from here."""
        self.rest = rest
        self._group = group
        self._changed = changed
        self._deadline = time.monotonic() + FINISH_SECONDS
        self._show()

    @property
    def over(self) -> bool:
        """Whether every worker is done."""
        return not self._group.busy

    def hear(self) -> None:
        """Wait a moment for a worker to finish. Raises PoolError if one died, failed, fell silent or is too late."""
        match self._group.hear():
            case rank, None:
                raise self._group.death(rank)
            case rank, Failed(agreed=False) as failed:
                raise self._group.blame(rank, failed)
        if time.monotonic() > self._deadline:
            raise PoolError(
                f"{self._group.late().capitalize()} did not come to an end within {FINISH_SECONDS:g} s after a cancel; "
                "the pool restarts on the next run."
            )
        self._show()

    def _show(self) -> None:
        """Set the workers' states, and notify if one has changed."""
        members = self._group.members
        before = [member.state for member in members]
        for member in members:
            member.state = "finishing" if member.rank in self._group.busy else self.rest
        if [member.state for member in members] != before:
            self._changed()
