"""What can go wrong with a pool, told apart by what is left afterwards."""

from __future__ import annotations


class PoolError(RuntimeError):
    """The pool could not start, or what it was asked cannot be done."""


class Stopped(PoolError):
    """Somebody stopped the pool while it was in use."""


class WorkerDied(PoolError):
    """A worker process ended by itself. The pool is stopped and starts again on the next run."""


class WorkerSilent(WorkerDied):
    """A worker process no longer answered and was ended, with the others."""

    def __init__(self, message: str, rank: int) -> None:
        self.rank = rank
        super().__init__(message)


class JobFailed(PoolError):
    """The job raised on a worker; the message holds the cause and, unless it is meant for users, the traceback.

    `kind` is the name of the exception's class, `cause` its message, which is `for_people` where no traceback is added.
    """

    def __init__(self, kind: str, cause: str, where: str, traceback: str = "") -> None:
        self.kind = kind
        self.cause = cause
        self.for_people = not traceback
        super().__init__(f"{cause}\n\n{kind}, raised on {where}:\n{traceback}" if traceback else cause)


class AgreedError(RuntimeError):
    """Raised inside a job by every rank at the same model call, so that no rank waits in a collective.

    After an AgreedError the workers are usable at once. After any other exception they need new connections, and where
    a rank does not come out of the job they are restarted.
    """


class Refused(AgreedError):
    """The model or the workflow asks for something that this strategy cannot do; the message says what avoids it."""


class RefusedAlone(RuntimeError):
    """As Refused, but the rank does not know whether the others have met the same: no AgreedError."""


class NotReturned(Refused):
    """A run that came to its end, but what it has changed cannot come back from the workers."""


class Cancelled(AgreedError):
    """The run was cancelled; decided by rank 0, raised by all ranks at the same model call."""


class RendezvousLost(RuntimeError):
    """The file by which the workers find each other is gone or cannot be used."""
