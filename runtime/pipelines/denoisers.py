"""Shares the evaluation of a pipeline's denoisers over the ranks: the rows of their batch, and their tokens.

A pipeline with classifier-free guidance mostly evaluates both conditions as one batch, the halves of which are the
conditions. So dividing its rows over the cfg axis, and then over the data axis, is CFG and data parallelism.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor

from ..attention.axis import Axis
from ..compression.wire import Wire
from ..parallel.data import DataParallel
from ..parallel.mesh import Degrees
from ..report.ledger import Ledger
from ..sharding.hooks import Hooked
from .plans import plan_for
from .rows import NOT_OF_ROWS, latent_of, rows_of
from .running import DENOISERS, Denoiser, DenoiserCall
from .sequence import split_denoiser


class DenoiserStrategy:
    """One set of degrees on a pipeline's denoisers, in force during `in_use`. Its wire keeps its state."""

    def __init__(
        self,
        components: Mapping[str, Any],
        degrees: Degrees,
        axes: dict[str, Axis],
        make_wire: Callable[[], Wire],
        ledger: Ledger,
    ) -> None:
        self._modules = {name: part for name, part in components.items() if name in DENOISERS and part is not None}
        self._degrees, self._axes, self._ledger = degrees, axes, ledger
        self._wire = make_wire() if degrees.sequence > 1 else None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Denoiser]:
        """For the block's duration the denoisers are shared. Yields what evaluates their calls.

        Collective at its end, which waits for messages in flight. Raises Unsupported for a denoiser without a plan.
        """
        with contextlib.ExitStack() as stack:
            split: dict[str, Hooked] = {}
            for name, module in self._modules.items() if self._wire is not None else ():
                if plan_for(module) is not None or name != "controlnet":
                    sharded = split_denoiser(module, self._degrees, self._axes, self._wire, self._ledger)
                    split[name] = stack.enter_context(sharded)
            evaluate: Denoiser = partial(self._evaluate, split)
            for axis in ("data", "cfg"):
                if self._axes[axis].size > 1:
                    evaluate = partial(_divided, DataParallel(self._axes[axis], self._ledger), evaluate)
            yield evaluate

    def _evaluate(self, split: Mapping[str, Hooked], call: DenoiserCall) -> Any:
        if call.name in split:
            condition = f"{call.name} {call.place}"
            split[call.name].begin_forward(tuple((condition, row) for row in range(rows_of(call))))
        output = call.module(*call.args, **call.kwargs)
        if self._wire is not None:
            self._wire.settle()
        return output


class Strategies:
    """Evaluates the calls of denoisers by the strategy in use; a context manager, at whose end that one is ended."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._current: DenoiserStrategy | None = None
        self._evaluate: Denoiser | None = None

    def __enter__(self) -> Strategies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._current = self._evaluate = None
        self._stack.__exit__(kind, value, traceback)

    def use(self, strategy: DenoiserStrategy) -> None:
        """Share later calls by this strategy. Collective if it is not in use already."""
        if strategy is not self._current:
            self._stack.close()
            self._evaluate = self._stack.enter_context(strategy.in_use())
            self._current = strategy

    def __call__(self, call: DenoiserCall) -> Any:
        """What the denoiser returns."""
        return self._evaluate(call)


def _divided(parallel: DataParallel, evaluate: Denoiser, call: DenoiserCall) -> Any:
    """A call whose rows are divided over an axis; a call of a model with other outputs than one tensor is not."""
    rows, name = rows_of(call), latent_of(call)
    if not rows or call.name == "controlnet":
        return evaluate(call)
    shared = {key: value for key, value in call.kwargs.items() if key in NOT_OF_ROWS}
    named = {key: value for key, value in call.kwargs.items() if key not in shared and key != name}
    given = call.args or (call.kwargs[name],)
    outputs: list[Any] = []

    def model(*args: Any, **kwargs: Any) -> Tensor:
        latent = {} if name is None else {name: args[0]}
        outputs.append(evaluate(call._replace(args=args if call.args else (), kwargs={**kwargs, **shared, **latent})))
        return first_of(outputs[0])

    return with_first(outputs, parallel(model, given, named, conditions=1))


def first_of(output: Any) -> Tensor:
    """The prediction in what a denoiser returned: a tensor, a tuple or an output class."""
    return output if isinstance(output, Tensor) else next(iter(output.values() if isinstance(output, dict) else output))


def with_first(outputs: list[Any], prediction: Tensor) -> Any:
    """The output with another prediction in it."""
    (output,) = outputs
    if isinstance(output, Tensor):
        return prediction
    if isinstance(output, dict):
        return type(output)(**{next(iter(output)): prediction})
    return type(output)((prediction, *output[1:]))
