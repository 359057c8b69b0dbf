"""The SAMPLER_SAMPLE wrapper of step parallelism: gives the sampler a model that evaluates calls in rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_sampling
from torch import Tensor

from ...config import StepReuseConfig
from ...parallel.resume import Predictions
from ...parallel.step.parametrization import Process, space_for
from ...parallel.step.replay import Replay
from ...parallel.step.rounds import Evaluator, Rounds
from ...parallel.step.samplers import kind_of_function
from ..brownian_noise import RememberedNoise
from .sampler_function import sampling_with


class StepParallel:
    """Runs a sampler's function with a model that answers from rounds. `accepted`: the calls accepted in each round."""

    def __init__(
        self,
        config: StepReuseConfig,
        evaluator: Callable[[Callable], Evaluator],
        predictions: Predictions | None = None,
    ) -> None:
        """`evaluator` makes the Evaluator for the model that the sampler is given.

        `predictions`: those that are known from an earlier try, and who is told of new ones.
        """
        self._config = config
        self._evaluator = evaluator
        self._predictions = predictions or Predictions((), lambda *_: None, lambda *_: None)
        self.accepted: list[int] = []

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapper: same arguments and result as the sampler's `sample`."""
        return sampling_with(self._in_rounds)(executor, *args, **kwargs)

    def _in_rounds(self, sample: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def sample_in_rounds(
            model: Any,
            x: Tensor,
            sigmas: Tensor,
            extra_args: dict | None = None,
            callback: Callable | None = None,
            disable: bool | None = None,
            **options: Any,
        ) -> Tensor:
            replay = Replay(sample, model, x, sigmas, extra_args or {}, options, RememberedNoise().in_use)
            sampling = model.inner_model.inner_model.model_sampling
            flow = isinstance(sampling, comfy.model_sampling.CONST)
            process = Process(flow, getattr(sampling, "noise_scale", 1.0))
            kind = kind_of_function(sample, options)
            space = space_for(process, noisy=kind.noisy)
            given = self._predictions.given
            rounds = Rounds(self._config, kind, self._evaluator(model), replay, space, given)
            try:
                return replay.run(self._predictions.told(rounds.model(model)), callback, disable)
            finally:
                self.accepted += rounds.accepted

        return sample_in_rounds
