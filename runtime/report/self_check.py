"""The finding of a self-check: one model call of a run, evaluated by all workers together and whole on every device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SelfCheck:
    """The finding of one worker, or of a run.

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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def merged(checks: Sequence[dict[str, Any] | None]) -> SelfCheck | None:
    """The finding of a run from its workers' `to_json`: the largest difference. None if there was no self-check."""
    found = [SelfCheck(**check) for check in checks if check is not None]
    return max(found, key=lambda check: -1.0 if check.difference is None else check.difference, default=None)


def sentence(check: SelfCheck) -> str:
    """The finding for the summary."""
    if check.difference is None:
        return f"Self-check: not done; {check.reason}."
    bound = (
        "compression or a displaced exchange adds to it"
        if check.explained is None
        else f"rounding explains up to {check.explained:.0e}"
    )
    return (
        f"Self-check: model call {check.call + 1}, evaluated whole on every device as well, has a relative difference "
        f"of {check.difference:.0e} ({bound})."
    )


def warnings(check: SelfCheck | None) -> list[str]:
    """The warning for a difference that rounding does not explain, if it is one."""
    if check is None or check.difference is None or check.explained is None or check.difference <= check.explained:
        return []
    return [
        f"The self-check failed: at model call {check.call + 1} what the workers computed together differs from the "
        f"same call on one device by {check.difference:.1%}, and rounding explains {check.explained:.1%} at most. The "
        "picture may be wrong; unplug Parallel Model, or share by cfg_degree or data_degree alone, and please report "
        "it with the workflow."
    ]
