"""The exceptions of a pool and its jobs; the class says in which state the workers are afterwards."""

from __future__ import annotations


class PoolError(RuntimeError):
    """The pool could not start, or could not do what it was asked."""


class NoConnection(PoolError):
    """The workers started, but no message could pass between them."""


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
    """The job raised on a worker. The message is the cause, with a traceback unless the cause is written for users.

    `kind` is the name of the exception's class, `cause` its message; `for_people` is true if there is no traceback.
    """

    def __init__(self, kind: str, cause: str, where: str, traceback: str = "") -> None:
        self.kind = kind
        self.cause = cause
        self.for_people = not traceback
        super().__init__(f"{cause}\n\n{kind}, raised on {where}:\n{traceback}" if traceback else cause)


class AgreedError(RuntimeError):
    """Raised inside a job by every rank at the same model call, so that no rank waits in a collective.

    After an AgreedError the workers are usable at once. After any other exception they need new connections, and they
    are restarted if a rank does not leave the job.
    """


class Refused(AgreedError):
    """The model or the workflow asks for something that this strategy cannot do; the message says what avoids it."""


class RefusedAlone(RuntimeError):
    """Like Refused, but raised by a rank that does not know whether the others raise too, so it is no AgreedError."""


class NotReturned(Refused):
    """The run completed, but its changes cannot be sent back from the workers."""


class Cancelled(AgreedError):
    """The run was cancelled; decided by rank 0, raised by all ranks at the same model call."""


class RendezvousLost(RuntimeError):
    """The file through which the workers find each other is gone or unusable."""
