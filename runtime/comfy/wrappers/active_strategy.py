"""Applies degrees to a model: the wrappers by which the ranks share the model's evaluation, in the order of the calls.

`Strategies` switches between several during a run, as Step Reuse needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from types import TracebackType
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...attention.axis import Axis
from ...compression.wire import Wire
from ...parallel.cfg import CfgParallel
from ...parallel.data import DataParallel
from ...parallel.mesh import Degrees
from ...report.ledger import Ledger
from .batch import SharedBatch
from .conditions import SharedConditions
from .counting import CountConditions, CountSplit
from .easycache import SharedEasyCache
from .tokens import shared_tokens


class ActiveStrategy:
    """One set of degrees on a model, in force during `in_use`. Its wire and caches keep their state from use to use."""

    def __init__(
        self,
        patcher: Any,
        degrees: Degrees,
        axes: dict[str, Axis],
        make_wire: Callable[[], Wire],
        ledger: Ledger,
        *,
        whole_batch: bool = False,
    ) -> None:
        """`whole_batch`: code inside the model may depend on the whole batch (see SharedBatch)."""
        self._patcher, self._degrees, self._axes, self._ledger = patcher, degrees, axes, ledger
        self._whole_batch = whole_batch
        self._easycache = SharedEasyCache(axes["cfg"], ledger) if degrees.cfg > 1 else None
        self._wire = make_wire() if degrees.sequence > 1 else None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[dict[str, Callable]]:
        """For the block's duration the model is shared. Yields one wrapper per kind.

        Collective at its end, which waits for messages in flight.
        """
        degrees, axes, ledger = self._degrees, self._axes, self._ledger
        conditions: list[Callable] = [CountConditions(ledger)]
        model: list[Callable] = []
        forward: list[Callable] = []
        with contextlib.ExitStack() as stack:
            if self._easycache is not None:
                conditions += [self._easycache.call, SharedConditions(CfgParallel(axes["cfg"], ledger))]
                forward += [self._easycache.forward]
            if degrees.data > 1:
                model += [SharedBatch(DataParallel(axes["data"], ledger), self._patcher, whole=self._whole_batch)]
            if self._wire is not None:
                conditions.insert(0, partial(_settling, self._wire))
                tokens = shared_tokens(self._patcher, degrees, axes, self._wire, ledger)
                model += [CountSplit(ledger), stack.enter_context(tokens)]
            wrappers = {
                WrappersMP.CALC_COND_BATCH: conditions,
                WrappersMP.APPLY_MODEL: model,
                WrappersMP.DIFFUSION_MODEL: forward,
            }
            yield {kind: _nested(each) for kind, each in wrappers.items() if each}


def _settling(wire: Wire, executor: Callable, *args: Any, **kwargs: Any) -> Any:
    """A wrapper around all conditions of a call: damage on the way is found before anybody uses the predictions."""
    predictions = executor(*args, **kwargs)
    wire.settle()
    return predictions


def _nested(wrappers: Sequence[Callable]) -> Callable:
    """One wrapper that calls the first around the second, and so on."""
    return reduce(_around, wrappers)


def _around(outer: Callable, inner: Callable) -> Callable:
    def wrapper(executor: Callable, *args: Any, **kwargs: Any) -> Any:
        return outer(partial(inner, executor), *args, **kwargs)

    return wrapper


class Strategies:
    """Wrappers on a model that delegate to `current`, the strategy in use (None if there is none).

    A context manager, at whose end the strategy in use is ended.
    """

    INNERMOST = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)
    OUTERMOST = (WrappersMP.DIFFUSION_MODEL,)

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.current: ActiveStrategy | None = None
        self._wrappers: Mapping[str, Callable] = {}

    def __enter__(self) -> Strategies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.current, self._wrappers = None, {}
        self._stack.__exit__(kind, value, traceback)

    def use(self, strategy: ActiveStrategy) -> None:
        """Share later evaluations by this strategy. Collective if it is not in use already."""
        if strategy is not self.current:
            self._stack.close()
            self._wrappers = self._stack.enter_context(strategy.in_use())
            self.current = strategy

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For the block's duration every rank evaluates the whole model. Collective at its beginning."""
        strategy = self.current
        self._stack.close()
        self.current, self._wrappers = None, {}
        try:
            yield
        finally:
            self.use(strategy)

    def innermost(self) -> dict[str, Callable]:
        """The wrappers, by kind, that go inside the workflow's; each delegates to the strategy in use."""
        return {kind: self._delegate(kind) for kind in self.INNERMOST}

    def outermost(self) -> dict[str, Callable]:
        """The wrappers, by kind, that go around the workflow's."""
        return {kind: self._delegate(kind) for kind in self.OUTERMOST}

    def _delegate(self, kind: str) -> Callable:
        def wrapper(executor: Callable, *args: Any, **kwargs: Any) -> Any:
            current = self._wrappers.get(kind)
            return executor(*args, **kwargs) if current is None else current(executor, *args, **kwargs)

        return wrapper
