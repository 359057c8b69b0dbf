"""The step axis of the mesh: its groups of ranks evaluate the calls of a round, assigned round-robin.

B batch entries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ...attention.axis import Axis, exchange
from ...report.ledger import MODEL, Ledger
from ..agreement import Agreement
from .capacity import Capacity
from .parametrization import Call

Evaluate = Callable[[int, Sequence[tuple[int, Call]], dict], list[Tensor]]


def as_one_batch(model: Callable[..., Tensor]) -> Evaluate:
    """Evaluates calls as one batch of `model`(x, sigma, **extra), as a sampler calls it."""

    def evaluate(index: int, calls: Sequence[tuple[int, Call]], extra: dict) -> list[Tensor]:
        x = torch.cat([call.x for _, call in calls])
        sigma = torch.cat([call.sigma for _, call in calls])
        return list(model(x, sigma, **extra).chunk(len(calls)))

    return evaluate


class StepGroups:
    """The Evaluator of a job on the pool (see rounds.Evaluator).

    Args:
        evaluate: called as evaluate(index, calls, extra) with (place, call) pairs of the round that begins at call
            `index`. Returns their predictions, after guidance.
        alone: called before a call is evaluated alone, to have all ranks share it.
        apart: called before each group evaluates its own calls, to have the ranks of a group share those.
        put_behind: called as put_behind(levels, extra) before an evaluation, to set what counts the calls seen to its
            state after the calls at these noise levels.
        batches: whether several calls of a group may be evaluated as one batch.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        axis: Axis,
        agreement: Agreement,
        alone: Callable[[], None],
        apart: Callable[[], None],
        put_behind: Callable[[Sequence[float], dict], None],
        ledger: Ledger,
        *,
        look_ahead: int,
        batches: bool,
    ) -> None:
        self._evaluate_all = evaluate
        self._axis = axis
        self._alone = alone
        self._apart = apart
        self._agreement = agreement
        self._put_behind = put_behind
        self._ledger = ledger
        self._levels: list[float] = []
        self._capacity = Capacity.first(look_ahead, axis.size, batches=batches)
        self._timed: _Timed | None = None

    @property
    def capacity(self) -> int:
        """See rounds.Evaluator."""
        return self._capacity.calls

    def serial(self, index: int, call: Call, extra: dict) -> Tensor:
        """The prediction of one call, evaluated by all ranks together."""
        self._come_to(index, [call], 0, extra)
        call = self.together(index, call, extra)
        self.begin_alone(call.x)
        with self._ledger.phase(MODEL):
            (denoised,) = self._evaluate_all(index, [(0, call)], extra)
            self._agreement.seen(denoised)
        self.end_alone()
        return denoised

    def begin_alone(self, x: Tensor) -> None:
        """All ranks begin to evaluate one call of latents like `x` (B, ...) together."""
        self._alone()
        self._timed = _Timed(x, 1, _mark(x), 0.0)

    def end_alone(self) -> None:
        """All ranks have evaluated the call."""
        self._timed = self._timed._replace(ended=_mark(self._timed.x))
        if self._axis.size == 1:
            _wait_until(self._timed.ended)
            self._judge()

    def together(self, index: int, call: Call, extra: dict) -> Call:
        """`call` as all ranks agree to see it."""
        return Call(*self._agreement.agree(index, call.x, call.sigma))

    def side_by_side(self, index: int, calls: Sequence[Call], extra: dict) -> list[Tensor]:
        """The predictions of `calls`, the same tensors on every rank."""
        own = range(self._axis.index, len(calls), self._axis.size)
        self._apart()
        self._come_to(index, calls, self._axis.index, extra)
        started = _mark(calls[0].x)
        evaluated = self._evaluate(index, [(place, calls[place]) for place in own], extra)
        self._timed = _Timed(calls[0].x, len(own), started, _mark(calls[0].x))
        return self._share(len(calls), evaluated, calls[0].x)

    def decide(self, accepted: int, finite: bool) -> int:
        """Returns rank 0's number of accepted calls of a round, and sets `capacity` for the next round to rank 0's."""
        self._agreement.finite(finite)
        self._judge()
        if dist.get_world_size() > 1:
            decision = torch.tensor([accepted, self.capacity])
            with self._ledger.phase("exposed"):
                dist.broadcast(decision, src=0)
            accepted, capacity = decision.tolist()
            self._capacity = self._capacity.agreed(capacity)
        self._ledger.shared("step", accepted > 1)
        return accepted

    def stop(self) -> None:
        """Evaluate no call ahead any more."""
        self._capacity = self._capacity.none_ahead()

    def warn(self, sentence: str) -> None:
        """Add a sentence to the report."""
        self._ledger.warn(sentence)

    def _come_to(self, index: int, calls: Sequence[Call], place: int, extra: dict) -> None:
        """Put hook keyframes, which count the calls seen, to their state before the call at `place` of the round."""
        self._levels[index:] = [call.level for call in calls]
        self._put_behind(self._levels[: index + place], extra)

    def _evaluate(self, index: int, own: list[tuple[int, Call]], extra: dict) -> list[Tensor]:
        if not own:
            return []
        for place, call in reversed(own):  # of a batch, the first call gets the seconds and bytes
            self._ledger.begin_call(index + place, call.level)
        with self._ledger.phase(MODEL):
            return self._evaluate_all(index, own, extra)

    def _judge(self) -> None:
        """Revise how many calls a round may have, by the time that the group took for its last ones.

        The host must have waited for them.
        """
        x, calls, started, ended = self._timed
        has_room = partial(self._agreement.has_room, x)
        self._capacity = self._capacity.revise(calls, _seconds(started, ended), has_room)
        if reason := self._capacity.given_up:
            self.warn(f"Step Reuse evaluates one call per worker at a time: {reason}.")

    def _share(self, count: int, evaluated: list[Tensor], like: Tensor) -> list[Tensor]:
        """Exchange predictions between the groups, one latent per call and link. Returns all `count`, in order."""
        size = self._axis.size
        sends: dict[int, Tensor] = {}
        gathered: dict[int, Any] = {self._axis.index: evaluated}
        for other in self._axis.others():
            if evaluated:
                sends[other] = torch.stack(evaluated)
                self._ledger.sent(sends[other].numel() * sends[other].element_size(), 2 * sends[other].numel())
            if mine := len(range(other, count, size)):
                gathered[other] = like.new_empty((mine, *like.shape))
        receives = {other: tensor for other, tensor in gathered.items() if other != self._axis.index}
        exchange(self._axis, sends, receives, self._ledger)
        return [gathered[place % size][place // size] for place in range(count)]


class _Timed(NamedTuple):
    """An evaluation of `calls` calls with latents like `x`, and the moments before and after it."""

    x: Tensor
    calls: int
    started: torch.cuda.Event | float
    ended: torch.cuda.Event | float


def _mark(x: Tensor) -> torch.cuda.Event | float:
    """This moment in the work of the device of `x`. Nobody waits for it."""
    if x.device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(x.device))
    return event


def _wait_until(moment: torch.cuda.Event | float) -> None:
    """Waits until the device has come to a moment."""
    if not isinstance(moment, float):
        moment.synchronize()


def _seconds(started: torch.cuda.Event | float, ended: torch.cuda.Event | float) -> float:
    """Between two moments, both of which have passed."""
    return ended - started if isinstance(ended, float) else started.elapsed_time(ended) / 1000
