"""Runs of a pipeline that are answered, not evaluated: to foresee its steps, and to evaluate a step before its turn.

Other models than the denoisers are answered from a memo. A replay passes the finished steps with placeholders
("fast-forward"), the last of them restores the run's state, and from there scheduler.step runs with given predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..running import Denoiser, DenoiserCall, Run, StepCall
from ..templates import Templates
from .committed import Committed
from .noise import Noise, probe

Memo = dict[tuple[str, str, int], Any]


class Reached(Exception):
    """The replay has come to where it was to go; ends it."""


class Answered(Run):
    """A run whose models are not evaluated: denoisers give placeholders, other models what the real run's gave."""

    def __init__(self, templates: Templates, memo: Memo) -> None:
        super().__init__()
        self._templates, self._memo = templates, memo

    def denoise(self, call: DenoiserCall) -> Any:
        """See `Run.denoise`."""
        return self._templates.of(call)

    def evaluate(self, key: tuple[str, str, int], model: Callable[[], Any]) -> Any:
        """See `Run.evaluate`. Raises Reached for what was not evaluated before the real run's first step ended."""
        if key not in self._memo:
            raise Reached
        return self._memo[key]


class Rehearsal(Answered):
    """Goes through all steps with predictions of zero. `noises`: those of every step; `noisy`: whether a step drew
    random numbers, other than the last."""

    def __init__(self, templates: Templates, memo: Memo, like: Tensor, generator: torch.Generator | None) -> None:
        super().__init__(templates, memo)
        self._like, self._generator = like, generator
        self.noises: list[Noise | None] = []
        self._draws: list[bool] = []

    @property
    def noisy(self) -> bool:
        """Whether the scheduler adds noise."""
        return any(self._draws[:-1])

    def at_step(self, call: StepCall) -> Any:
        """See `Run.at_step`."""
        self.noises.append(probe(call.scheduler, call.timestep, self._like.device))
        before = self._drawn()
        result = call(torch.zeros_like(self._like))
        self._draws.append(any(not torch.equal(old, new) for old, new in zip(before, self._drawn())))
        return result

    def _drawn(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._like.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._like.device))
        return [*states, self._generator.get_state()] if self._generator is not None else states


class Replay(Answered):
    """Goes on from the finished steps with predictions given, up to step `target`, and ends there.

    `predict` is called as predict(step, sample) for the steps after the finished ones. `denoiser`, if there is one, is
    asked in the target's step, in place of placeholders. At the end `calls` are those of the target's denoisers,
    `sample` its latent and `prediction` what its scheduler was given.
    """

    def __init__(
        self,
        templates: Templates,
        memo: Memo,
        committed: Committed | None,
        target: int,
        predict: Callable[[int, Tensor], Tensor],
        denoiser: Denoiser | None,
        device: torch.device,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(templates, memo)
        self._committed, self._target, self._predict, self._denoiser = committed, target, predict, denoiser
        self._device, self._generator = device, generator
        self.sample: Tensor | None = None
        self.prediction: Tensor | None = None

    def denoise(self, call: DenoiserCall) -> Any:
        """See `Run.denoise`."""
        if self._denoiser is not None and self.step == self._target:
            return self._denoiser(call)
        return super().denoise(call)

    def at_step(self, call: StepCall) -> Any:
        """See `Run.at_step`."""
        finished = self._committed.steps if self._committed is not None else 0
        if self.step < finished - 1:
            return self._committed.placeholder
        if self.step == finished - 1:
            return self._committed.restore(call.scheduler, self._device, self._generator)
        if self.step == self._target:
            self.sample, self.prediction = call.sample, call.model_output
            raise Reached
        return call(self._predict(self.step, call.sample))
