"""Wrappers that write down what the calls of a run were: what there was to divide shows there, and nowhere before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..report.ledger import Ledger
from .cfg import owners


class CountConditions:
    """A CALC_COND_BATCH wrapper: how many conditions every call asks for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, executor: Callable, model: Any, conds: list[list[dict] | None], *args: Any) -> list[Tensor]:
        """The wrapper."""
        self._ledger.asked(len(owners(conds, 1)))
        return executor(model, conds, *args)


class CountSplit:
    """An APPLY_MODEL wrapper around a model whose tokens or rows are split: whether any were.

    What is divided is put together again at the end of the model, so it travels.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapper."""
        before, _ = self._ledger.totals()
        output = executor(*args, **kwargs)
        self._ledger.shared("sequence", self._ledger.totals()[0] > before)
        return output
