"""Progress and cancel: after each denoising step the ranks agree whether to go on, and leave together if not.

How: xfuser's loops call `progress_bar.update()` after each step on every rank. There each rank calls `on_step` and
contributes to an all-reduce whether that raised. With PipeFusion the ranks are not at the same step at the same time,
so a rank reads the result of the step before: all others have been there when it is done with this one, so it waits for
nobody. All ranks thus read the same result at the same step.

Nobody stops there, because a stage may still wait for another one's message. From the next model call on the model is
not evaluated any more (`Coasting`): what a rank sends is zeros of the right shapes, and every message finds its
receiver. When the loop has ended, before anything is decoded, all ranks raise.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...pool.errors import AgreedError, Cancelled
from ...report.ledger import MODEL, Ledger
from .pipefusion import Sends

_GO_ON, _STOP, _CANCEL = range(3)


class Steps:
    """The steps of one run on one rank, and whether the run has been stopped.

    `staged`: ranks may be one step apart.
    """

    def __init__(
        self, on_step: Callable[[int], None] | None, group: dist.ProcessGroup, staged: bool, sends: Sends | None
    ) -> None:
        self.done = 0
        self.stopped = _GO_ON
        self.ended = False
        """Whether all ranks have left the loop, and no message is under way."""
        self._on_step, self._group, self._lag, self._sends = on_step, group, int(staged), sends
        self._asked: deque[tuple[Tensor, dist.Work]] = deque()
        self._error: Exception | None = None
        if sends is not None:
            sends.step = 0

    def step(self) -> None:
        """Ends a step."""
        own = _GO_ON
        if not self.stopped and self._on_step is not None:
            try:
                self._on_step(self.done)
            except Exception as error:
                self._error = error
                own = _CANCEL if isinstance(error, Cancelled) else _STOP
        vote = torch.tensor([own])
        self._asked.append((vote, dist.all_reduce(vote, dist.ReduceOp.MAX, group=self._group, async_op=True)))
        self.done += 1
        self._read(self._lag)
        if self._sends is not None:
            self._sends.step = self.done
            self._sends.arrived(self.done - 1 - self._lag)

    def end(self) -> None:
        """Ends the run: every rank has left its loop. Raises if any rank's `on_step` has: its own error on that rank,
        Cancelled or AgreedError on the others."""
        self._read(0)
        if self._sends is not None:
            dist.all_reduce(torch.zeros(1), group=self._group)
            self._sends.arrived(self.done + 1)
        self.ended = True
        if self._error is not None:
            raise self._error
        if self.stopped == _CANCEL:
            raise Cancelled("The run was cancelled.")
        if self.stopped:
            raise AgreedError(f"Another worker stopped the run at step {self.done} or before; its error says why.")

    def _read(self, left: int) -> None:
        """Reads the votes of all but the last `left` steps."""
        while len(self._asked) > left:
            vote, work = self._asked.popleft()
            work.wait()
            self.stopped = max(self.stopped, int(vote))


def _as_new(zeros: Tensor) -> Tensor:
    return zeros.clone(memory_format=torch.contiguous_format)


class Progress:
    """What `progress_bar()` of a pipeline gives to xfuser's loop, instead of a bar in the terminal."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._steps.end()

    def update(self, count: int = 1) -> None:
        """Ends a step."""
        self._steps.step()


class Coasting:
    """Stands for the model's forward. Once the run has stopped it returns zeros of the shapes that it returned before.

    `place()` names which patch of the picture a call is about; calls of one place return the same shapes. The ledger
    learns of every call. `settle` is called after each.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        steps: Steps,
        ledger: Ledger,
        place: Callable[[], Any],
        settle: Callable[[], None],
    ) -> None:
        self._forward, self._steps, self._ledger, self._place, self._settle = forward, steps, ledger, place, settle
        self._zeros: dict[Any, Any] = {}
        """By place; each tensor is one zero in memory."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One call of the model."""
        place = self._place()
        if self._steps.stopped and place in self._zeros:
            return tree_map_only(Tensor, _as_new, self._zeros[place])
        if self._ledger.call != self._steps.done:
            self._ledger.begin_call(self._steps.done, math.nan)
        with self._ledger.phase(MODEL):
            out = self._forward(*args, **kwargs)
            self._settle()
        if place not in self._zeros:
            self._zeros[place] = tree_map_only(Tensor, lambda x: x.new_zeros(1).expand(x.shape), out)
        return out
