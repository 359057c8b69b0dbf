"""What earlier runs of a workflow have shown that cannot be known before one: kept by this process, for mode "auto".

A workflow is known by a hashable value that whoever runs it makes (see job/fingerprint.py).
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

KEPT = 256
TRIES = 2
"""Failures of a workflow in the workers, one after the other, that are believed to come again."""


@dataclass
class _Known:
    conditions: int | None = None
    idle: frozenset[str] = frozenset()
    failures: int = 0
    starts: int = 0
    why: str = ""


class Experience:
    """Remembers the last `kept` workflows."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()

    def conditions(self, asking: Hashable) -> int | None:
        """How many conditions most calls of the last run that asked this way have asked for; None before the first."""
        return self._of(asking).conditions

    def idle(self, workflow: Hashable) -> frozenset[str]:
        """The kinds of parallelism that found nothing to do when this workflow last had them."""
        return self._of(workflow).idle

    def learn(self, asking: Hashable, conditions: int) -> None:
        """What most calls have asked for."""
        self._keep(asking).conditions = conditions

    def ran(self, workflow: Hashable, busy: Iterable[str], idle: Iterable[str]) -> None:
        """A run has ended well: these kinds had something to do, and those had nothing."""
        known = self._keep(workflow)
        known.idle = known.idle - frozenset(busy) | frozenset(idle)
        known.failures = 0

    def failed(self, workflow: Hashable, starts: int, why: str) -> None:
        """A run has failed in the workers, which had been started `starts` times by then."""
        known = self._keep(workflow)
        known.failures, known.starts, known.why = known.failures + 1, starts, why

    def expected_failure(self, workflow: Hashable, starts: int) -> str:
        """Why the next run will fail in the workers, "" where it may not.

        Workers that have been started again since then are worth another try.
        """
        known = self._of(workflow)
        return known.why if known.failures >= TRIES and starts == known.starts else ""

    def _of(self, key: Hashable) -> _Known:
        return self._known.get(key, _Known())

    def _keep(self, key: Hashable) -> _Known:
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return known


@functools.cache
def experience() -> Experience:
    """The one of this process."""
    return Experience()
