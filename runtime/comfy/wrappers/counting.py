"""Wrappers that count, for the ledger, what each call had to divide: conditions, and tokens or rows.

Only the calls themselves show this for certain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...parallel.cfg import owners
from ...report.ledger import Ledger


class CountConditions:
    """A CALC_COND_BATCH wrapper that counts the conditions of every call."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, executor: Callable, model: Any, conds: list[list[dict] | None], *args: Any) -> list[Tensor]:
        """The wrapper."""
        self._ledger.asked(len(owners(conds, 1)))
        return executor(model, conds, *args)


class CountSplit:
    """An APPLY_MODEL wrapper around a sharded model that counts whether any tokens or rows were split.

    If so, bytes were sent: the shards are gathered at the end of the model.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapper."""
        before, _ = self._ledger.totals()
        output = executor(*args, **kwargs)
        self._ledger.shared("sequence", self._ledger.totals()[0] > before)
        return output
