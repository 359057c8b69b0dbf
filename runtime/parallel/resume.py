"""Resuming a run: a sampler is a function of its list of predictions, so those that are known are given to it again.

The sampler runs from its start; its first calls are answered with the predictions of the run that did not come to its
end, and from there on the model is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .step.replay import Answering

Tell = Callable[[int, Tensor], None]
"""Is told of each new prediction: the number of its call, from 0, and the prediction (B, ...)."""


class Predictions:
    """The predictions that a sampler's calls are answered with: those `given` from an earlier try, then new ones.

    `tell` is told of the new ones. `put_behind` is called as put_behind(levels, extra) before the first new one, to set
    what counts the calls seen to its state after those at these noise levels.
    """

    def __init__(self, given: Sequence[Tensor], tell: Tell, put_behind: Callable[[list[float], dict], None]) -> None:
        self.given, self._tell, self._put_behind = given, tell, put_behind
        self._calls = 0
        self._levels: list[float] = []

    @property
    def resuming(self) -> bool:
        """Whether the calls so far were all evaluated in the earlier try."""
        return 0 < len(self.given) >= self._calls

    def one_by_one(self, model: Any) -> Answering:
        """The model for a sampler: `model`, unless the prediction is known."""

        def answer(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            if self._calls < len(self.given):
                self._levels.append(float(sigma.reshape(-1)[0]))
                return self._committed(self.given[self._calls].to(x.device, x.dtype))
            if self._levels and self._calls == len(self.given):
                self._put_behind(self._levels, extra)
            return self._committed(model(x, sigma, **extra))

        return Answering(model, answer)

    def told(self, model: Callable[..., Tensor]) -> Answering:
        """The model for a sampler: `model`, which knows the predictions given (see Rounds)."""
        return Answering(model, lambda x, sigma, **extra: self._committed(model(x, sigma, **extra)))

    def _committed(self, denoised: Tensor) -> Tensor:
        if self._calls >= len(self.given):
            self._tell(self._calls, denoised)
        self._calls += 1
        return denoised
