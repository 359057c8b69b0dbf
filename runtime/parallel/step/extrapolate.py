"""Extrapolates the model's coming predictions from the past ones.

Predictions are stored as u (see parametrization.py), which changes little from call to call. B batch entries; u has
the shape of the latent, (B, ...).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from .parametrization import Call, Space, decode, encode

# The decay of a fit's sums per call. A short memory does best: the character of a run changes as it goes on.
MEMORY = 0.15


@dataclass(frozen=True)
class _Stored:
    level: float
    coordinate: float
    kept: Tensor


class Extrapolation:
    """Extrapolates predictions from those of the calls committed so far.

    "hold" repeats the last one. "linear" continues the line through the last two. "auto" goes k times as far as
    "linear", with k in [0, 1] per batch entry and distance, fitted by least squares to the committed calls extrapolated
    over that distance: a trained network's predictions are often rough from call to call, and k near 0 fits best.
    """

    def __init__(self, predictor: str, space: Space, *, reach: int) -> None:
        """`reach`: the largest number of calls to look ahead."""
        self._predictor = predictor
        self._space = space
        self._known: deque[_Stored] = deque(maxlen=reach + 2)
        self._fits = [_Fit() for _ in range(reach)]

    def commit(self, call: Call, denoised: Tensor) -> None:
        """Add the model's prediction at `call`. A second one at the same noise level replaces the first."""
        known = self._known_of(call, denoised)
        if self._predictor == "auto" and not self._is_last(known):
            self._learn(known)
        self._append(known)

    def after(self, calls: Sequence[tuple[Call, Tensor]]) -> Extrapolation:
        """A copy that also has these (call, prediction) pairs, which come next but are not committed."""
        later = copy(self)
        later._known = deque(self._known, maxlen=self._known.maxlen)
        for call, denoised in calls:
            later._append(later._known_of(call, denoised))
        return later

    def expected(self, call: Call, place: int) -> Tensor:
        """The expected prediction D at `call`; `place` calls lie between it and the last known one."""
        return decode(self._space, call, self._expected(self._space.coordinate(call.level), place + 1))

    def _known_of(self, call: Call, denoised: Tensor) -> _Stored:
        return _Stored(call.level, self._space.coordinate(call.level), encode(self._space, call, denoised))

    def _is_last(self, known: _Stored) -> bool:
        # Some samplers return to the same level except for rounding; a line through two such points is meaningless.
        return bool(self._known) and math.isclose(self._known[-1].level, known.level, rel_tol=1e-4)

    def _append(self, known: _Stored) -> None:
        if self._is_last(known):
            self._known.pop()
        self._known.append(known)

    def _expected(self, coordinate: float, distance: int) -> Tensor:
        last = self._known[-1].kept
        if self._predictor == "hold" or len(self._known) < 2:
            return last
        line = self._line(len(self._known) - 1, coordinate)
        if self._predictor == "linear":
            return last + line
        return torch.addcmul(last, self._share(distance, line), line)

    def _line(self, at: int, coordinate: float) -> Tensor:
        """The change from `at` to `coordinate` along the line through the known predictions `at` - 1 and `at`."""
        before, last = self._known[at - 1], self._known[at]
        return (last.kept - before.kept) * ((coordinate - last.coordinate) / (last.coordinate - before.coordinate))

    def _learn(self, known: _Stored) -> None:
        for distance, fit in enumerate(self._fits, start=1):
            at = len(self._known) - distance
            if at < 1:
                return
            fit.add(known.kept - self._known[at].kept, self._line(at, known.coordinate))

    def _share(self, distance: int, like: Tensor) -> Tensor:
        """k for this distance, (B, 1, ...); if it has no fit yet, that of the farthest distance that has one, or 0."""
        for fit in reversed(self._fits[:distance]):
            if fit.line_line is not None:
                return fit.share().view(-1, *(1 for _ in like.shape[1:]))
        return like.new_zeros(())


class _Fit:
    """Least-squares fit of k in change = k * line, per batch entry."""

    def __init__(self) -> None:
        self.line_line: Tensor | None = None
        self._change_line: Tensor | None = None

    def add(self, change: Tensor, line: Tensor) -> None:
        change_line = (change * line).flatten(1).sum(1)
        line_line = (line * line).flatten(1).sum(1)
        if self.line_line is not None:
            change_line += MEMORY * self._change_line
            line_line += MEMORY * self.line_line
        self._change_line, self.line_line = change_line, line_line

    def share(self) -> Tensor:
        """k, (B,), clamped to [0, 1]."""
        tiny = torch.finfo(self.line_line.dtype).tiny
        return (self._change_line / self.line_line.clamp_min(tiny)).clamp(0, 1)
