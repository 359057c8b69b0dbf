"""What the self-check of a run found: one model call, evaluated by all workers together and whole on every device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SelfCheck:
    """The finding of one worker.

    Args:
        call: the checked model call, from 0.
        difference: ||shared - whole|| / ||whole||, the largest of the call's predictions; None if it was not checked.
        explained: the largest difference that rounding explains; None where compression or stale keys add to it.
        reason: why it was not checked; empty if it was.
    """

    call: int = 0
    difference: float | None = None
    explained: float | None = None
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether rounding does not explain the difference."""
        return self.difference is not None and self.explained is not None and not self.difference <= self.explained

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def merged(checks: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The finding of a run from those of its workers: the largest difference. None if no self-check was asked for."""
    found = [check for check in checks if check is not None]
    return max(found, key=lambda check: (check["difference"] is not None, check["difference"] or 0.0), default=None)


def sentence(check: dict[str, Any]) -> str:
    """The finding for the summary."""
    if check["difference"] is None:
        return f"Self-check: not done; {check['reason']}."
    bound = (
        "compression or a displaced exchange adds to it"
        if check["explained"] is None
        else f"rounding explains up to {check['explained']:.0e}"
    )
    return (
        f"Self-check: model call {check['call'] + 1}, evaluated whole on every device as well, has a relative "
        f"difference of {check['difference']:.0e} ({bound})."
    )


def warning(check: SelfCheck) -> str:
    """The warning for a difference that rounding does not explain."""
    return (
        f"The self-check failed: at model call {check.call + 1} what the workers computed together differs from the "
        f"same call on one device by {check.difference:.1%}, and rounding explains {check.explained:.1%} at most. The "
        "picture may be wrong; unplug Parallel Model, or share by cfg_degree or data_degree alone, and please report "
        "it with the workflow."
    )
