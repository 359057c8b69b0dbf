"""The self-check: evaluates one model call of a run whole on every device as well, and records the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...parallel.all_gather_texts import all_gather_texts
from ...report.ledger import Ledger
from ...report.metrics import difference
from ...report.self_check import SelfCheck
from ..shipping.counterparts import Counterparts
from ..shipping.facets import CannotReturn
from ..shipping.naming import Names
from ..shipping.sampling_job import random_state, set_random_state
from ..shipping.state_changes import Watch
from .active_strategy import ActiveStrategy, Strategies

NO_MEMORY = "the whole call does not fit on one device"
REMEMBERS = "{} remembers something from call to call, and would see the call twice"


class SelfChecking:
    """A CALC_COND_BATCH wrapper around that of the strategy in use. The sampler gets the shared predictions."""

    def __init__(
        self,
        shared: Callable,
        strategies: Strategies,
        together: ActiveStrategy,
        counterparts: Counterparts,
        ledger: Ledger,
        *,
        call: int,
        explained: float | None,
    ) -> None:
        """
        Args:
            shared: the wrapper of the strategy in use.
            together: the strategy by which all workers evaluate one call.
            counterparts: all that the workflow may change by a call.
            call: the first call that may be checked, from 0.
            explained: see report.self_check.SelfCheck.
        """
        self._shared = shared
        self._strategies = strategies
        self._together = together
        self._counterparts = counterparts
        self._ledger = ledger
        self._call = call
        self._explained = explained
        ledger.self_check = SelfCheck(call, reason="no model call was evaluated by all workers together")
        self._done = False

    def __call__(self, executor: Callable, model: Any, conds: list[list[dict] | None], *args: Any) -> list[Tensor]:
        """The predictions of all conditions. Collective at the checked call."""
        ledger = self._ledger
        if self._done or ledger.call < self._call or self._strategies.current is not self._together:
            return self._shared(executor, model, conds, *args)
        self._done = True
        watch = Watch(self._counterparts)
        predictions = self._shared(executor, model, conds, *args)
        reason = next(filter(None, all_gather_texts(self._reason_against(watch))), "")
        if reason:
            ledger.self_check = SelfCheck(ledger.call, reason=reason)
        else:
            ledger.self_check = self._compare(predictions, conds, lambda: executor(model, conds, *args))
        return predictions

    def _reason_against(self, watch: Watch) -> str:
        """Why the call cannot be evaluated again: something has changed since `watch` was made; empty if it can."""
        try:
            changes = watch.changes()
        except CannotReturn as reason:
            return str(reason).rstrip(".")
        return REMEMBERS.format(Names(self._counterparts).of(changes[0].obj)) if changes else ""

    def _compare(self, predictions: Sequence[Tensor], conds: Sequence[Any], whole: Callable) -> SelfCheck:
        state = random_state()
        try:
            with self._strategies.paused():
                expected = whole()
        except torch.cuda.OutOfMemoryError:
            return SelfCheck(self._ledger.call, reason=NO_MEMORY)
        finally:
            set_random_state(state)
        pairs = [(one, other) for one, other, cond in zip(predictions, expected, conds) if cond and other.any()]
        differences = [difference(one, other) for one, other in pairs]
        return SelfCheck(self._ledger.call, max(differences, default=0.0), self._explained)
