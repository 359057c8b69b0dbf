"""One worker as its pool sees it: its state, its entry in the status, and the errors that name it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import JobFailed, WorkerDied, WorkerSilent
from .launcher import WorkerHandle
from .messages import Failed
from .orders import Orders

# Exceptions whose message was written for the user: no traceback makes it clearer.
SENTENCES = (
    "Refused", "RefusedAlone", "NotReturned", "Diverged", "NotFinite", "Cancelled", "ShippingError", "RendezvousLost",
)  # fmt: skip
# The longest wait for a killed process. It ends at once, unless it waits for a device or a disk, or has much memory to
# free.
END_SECONDS = 2.0


@dataclass
class Member:
    """A worker of a group. `about` are its handler's details for the status, `state` is what the status shows."""

    orders: Orders
    handle: WorkerHandle
    state: str = "starting"
    about: dict = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The worker's rank."""
        return self.orders.rank

    @property
    def name(self) -> str:
        """The worker's name in messages to people."""
        return self.orders.name

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.handle.exit_code() is not None

    def status(self) -> dict:
        """This worker's entry in the pool's status."""
        state = "dead" if self.ended else self.state
        return {"rank": self.rank, "device": self.orders.device, "pid": self.handle.pid, **self.about, "state": state}

    def end(self, seconds: float = END_SECONDS) -> None:
        """Kill the worker and wait until it is gone, for at most `seconds`."""
        self.state = "dead"
        self.handle.kill()
        self.handle.join(seconds)

    def failure(self, failed: Failed) -> JobFailed:
        """The error for a Failed message from this worker."""
        # An exception that is not in SENTENCES is a bug, which its traceback helps find.
        traceback = "" if failed.kind in SENTENCES else failed.traceback
        return JobFailed(failed.kind, failed.error, self.name, traceback)

    def death(self) -> WorkerDied:
        """The error for a process that has ended by itself."""
        self.end()
        code = self.handle.exit_code()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerDied(
            f"{self.name.capitalize()}, process {self.handle.pid}, ended with {how}; the pool restarts on the next run."
            f"\nIts last words:\n{self.handle.log_tail()}"
        )

    def silence(self, seconds: float) -> WorkerSilent:
        """The error for a worker that has not answered for `seconds`."""
        return WorkerSilent(
            f"{self.name.capitalize()}, process {self.handle.pid}, has not answered for {seconds:g} s and was ended; "
            f"the pool restarts on the next run.\nIts last words:\n{self.handle.log_tail()}",
            self.rank,
        )
