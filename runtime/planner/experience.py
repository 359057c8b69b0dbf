"""Remembers what earlier runs of a workflow showed, for mode "auto": conditions per call, idle parallelism, failures.

Kept in memory by this process, under two hashable keys from the caller (see comfy/describe/fingerprint.py): `asking`
for the number of conditions, `workflow` for the rest.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

KEPT = 256
TRIES = 2
"""After this many failures of a workflow in the workers in a row, the next run is expected to fail too."""


@dataclass
class _Workflow:
    conditions: int | None = None
    idle: frozenset[str] = frozenset()
    failures: int = 0
    starts: int = 0
    why: str = ""


class Experience:
    """Remembers the last `kept` workflows."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._known: OrderedDict[Hashable, _Workflow] = OrderedDict()

    def conditions(self, asking: Hashable) -> int | None:
        """How many conditions most calls of the last run with the key `asking` had; None before the first run."""
        return self._of(asking).conditions

    def idle(self, workflow: Hashable) -> frozenset[str]:
        """The kinds of parallelism that had nothing to divide when this workflow last used them."""
        return self._of(workflow).idle

    def learn(self, asking: Hashable, conditions: int) -> None:
        """Stores how many conditions most calls of a run had."""
        self._keep(asking).conditions = conditions

    def ran(self, workflow: Hashable, busy: Iterable[str], idle: Iterable[str]) -> None:
        """Records a successful run: the kinds of parallelism that divided something (`busy`) and those that did not."""
        known = self._keep(workflow)
        known.idle = known.idle - frozenset(busy) | frozenset(idle)
        known.failures = 0

    def failed(self, workflow: Hashable, starts: int, why: str) -> None:
        """Records a run that failed in the workers, which had been started `starts` times by then."""
        known = self._keep(workflow)
        known.failures, known.starts, known.why = known.failures + 1, starts, why

    def expected_failure(self, workflow: Hashable, starts: int) -> str:
        """The reason why the next run is expected to fail in the workers; "" if it is not.

        Workers that were restarted since the last failure are worth another try.
        """
        known = self._of(workflow)
        return known.why if known.failures >= TRIES and starts == known.starts else ""

    def _of(self, key: Hashable) -> _Workflow:
        return self._known.get(key, _Workflow())

    def _keep(self, key: Hashable) -> _Workflow:
        known = self._known.setdefault(key, _Workflow())
        self._known.move_to_end(key)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return known


@functools.cache
def experience() -> Experience:
    """The one `Experience` of this process."""
    return Experience()
