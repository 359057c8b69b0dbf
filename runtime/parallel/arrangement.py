"""Applies degrees to a model: an arrangement is the set of wrappers by which ranks share the model's evaluation.

`Arrangements` switches between several during a run, as Step Reuse needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial, reduce
from types import TracebackType
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..attention.axis import Axis
from ..compression.wire import Wire
from ..report.ledger import Ledger
from .cfg import CfgParallel
from .counting import CountConditions, CountSplit
from .data import DataParallel
from .easycache import SharedEasyCache
from .mesh import Degrees
from .sequence import sequence_parallel


class Arrangement:
    """The wrappers for one set of degrees, which divide conditions, batch entries and tokens over the ranks.

    Its wire keeps its compression bases from use to use.
    """

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
        """`whole_batch`: code inside the model may depend on the whole batch (see DataParallel)."""
        self.wrappers: dict[str, Callable] = {WrappersMP.CALC_COND_BATCH: CountConditions(ledger)}
        if degrees.cfg > 1:
            cache = SharedEasyCache(axes["cfg"], ledger)
            shared = _inside(cache.call, CfgParallel(axes["cfg"], ledger))
            self.wrappers[WrappersMP.CALC_COND_BATCH] = _inside(CountConditions(ledger), shared)
            self.wrappers[WrappersMP.DIFFUSION_MODEL] = cache.forward
        self._ledger = ledger
        self._data = DataParallel(axes["data"], ledger, whole=whole_batch) if degrees.data > 1 else None
        self._shard = None
        if degrees.sequence > 1:
            wire = make_wire()
            self._shard = lambda: sequence_parallel(patcher, degrees, axes, wire, ledger)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """For the block's duration the model is sharded. Collective at its end, which waits for messages in flight."""
        with contextlib.ExitStack() as stack:
            around_the_model = [self._data] if self._data is not None else []
            if self._shard is not None:
                around_the_model += [CountSplit(self._ledger), stack.enter_context(self._shard())]
            if around_the_model:
                self.wrappers[WrappersMP.APPLY_MODEL] = reduce(_inside, around_the_model)
            yield


def _inside(outer: Callable, inner: Callable) -> Callable:
    """Composes two wrappers: `outer` is called around `inner`."""

    def wrapper(executor: Callable, *args: Any, **kwargs: Any) -> Any:
        return outer(partial(inner, executor), *args, **kwargs)

    return wrapper


class Arrangements:
    """Wrappers on a model that delegate to the arrangement in use. A context manager; after it none is in use."""

    INNERMOST = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)
    OUTERMOST = (WrappersMP.DIFFUSION_MODEL,)

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._current: Arrangement | None = None

    def __enter__(self) -> Arrangements:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._current = None
        self._stack.__exit__(kind, value, traceback)

    def use(self, arrangement: Arrangement) -> None:
        """Share later evaluations by this arrangement. Collective if it is not in use already."""
        if arrangement is not self._current:
            self._stack.close()
            self._stack.enter_context(arrangement.in_use())
            self._current = arrangement

    def innermost(self) -> dict[str, Callable]:
        """The wrappers, by kind, that go inside the workflow's; each delegates to the arrangement in use."""
        return {kind: self._delegate(kind) for kind in self.INNERMOST}

    def outermost(self) -> dict[str, Callable]:
        """The wrappers, by kind, that go around the workflow's."""
        return {kind: self._delegate(kind) for kind in self.OUTERMOST}

    def _delegate(self, kind: str) -> Callable:
        def wrapper(executor: Callable, *args: Any, **kwargs: Any) -> Any:
            current = self._current.wrappers.get(kind) if self._current is not None else None
            return executor(*args, **kwargs) if current is None else current(executor, *args, **kwargs)

        return wrapper
