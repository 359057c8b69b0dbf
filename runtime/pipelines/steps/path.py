"""The path of a pipeline's latents through its steps: a `Path` for rounds, gone again by replays of the pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...parallel.step.parametrization import Call
from ..running import Denoiser, DenoiserCall, Run, Runs
from ..templates import Templates
from .batching import one_batch
from .committed import Committed
from .noise import Noise, levels_of
from .replays import Memo, Reached, Rehearsal, Replay


class PipelinePath:
    """The path. `templates` and `memo` are filled by the real run, which also sets `committed` after every step.

    `rehearse` must be called first, after the first step of the real run was evaluated.
    """

    def __init__(self, runs: Runs, like: Tensor, prediction: str, templates: Templates, memo: Memo) -> None:
        """`like`: a latent (B, ...)."""
        self._runs, self._like, self._prediction = runs, like, prediction
        self._templates, self._memo = templates, memo
        self.committed: Committed | None = None
        self.noisy = False
        self.noises: dict[float, Noise] = {}
        self._levels: list[float] = []
        self._predicted: list[Tensor] = []

    @property
    def sigmas(self) -> list[float]:
        """See rounds.Path: the noise levels, and none at the end."""
        return [*self._levels, 0.0]

    @property
    def nbytes(self) -> int:
        """See rounds.Path: nothing of the predictions needs to be kept, as replays start from the last step."""
        return 0

    def rehearse(self) -> list[float]:
        """See rounds.Path."""
        rehearsals: list[Rehearsal] = []

        def make(generator: torch.Generator | None) -> Run:
            rehearsals.append(Rehearsal(self._templates, self._memo, self._like, generator))
            return rehearsals[0]

        self._replay(make)
        self.noisy = rehearsals[0].noisy
        self._levels, self.noises = levels_of(rehearsals[0].noises, self._prediction)
        return self._levels

    def look_ahead(
        self, denoised: list[Tensor], levels: Sequence[float], predict: Callable[[Call, int], Tensor]
    ) -> list[Call]:
        """See rounds.Path. Remembers the predictions, by which `evaluate` goes to these calls."""
        first, calls = len(denoised), []
        self._predicted = []

        def call_at(step: int, sample: Tensor) -> Call:
            level = levels[step - first]
            return Call(sample.clone(), sample.new_full(sample.shape[:1], level, dtype=torch.float64), level)

        def answer(step: int, sample: Tensor) -> Tensor:
            calls.append(call_at(step, sample))
            self._predicted.append(predict(calls[-1], step - first))
            return self._predicted[-1]

        last = first + len(levels) - 1
        replay = self._to(last, answer, None)
        return [*calls, call_at(last, replay.sample)]

    def calls_of(self, step: int) -> list[DenoiserCall]:
        """The calls of denoisers at the first step that is not finished, by a replay."""
        return self._to(step, lambda *_: self._like, None).calls

    def evaluate(self, index: int, places: Sequence[int], denoiser: Denoiser) -> list[Tensor]:
        """The predictions of steps index + place, which `look_ahead` has foreseen last; several as one batch."""
        if len(places) == 1:
            return [self._evaluated(index, places[0], denoiser)]
        asked = [self._to(index + place, self._given(index), None).calls for place in places]
        answers = one_batch(asked, denoiser)
        if answers is None:
            return [self._evaluated(index, place, denoiser) for place in places]
        return [self._evaluated(index, place, answer) for place, answer in zip(places, answers)]

    def _evaluated(self, index: int, place: int, denoiser: Denoiser) -> Tensor:
        return self._to(index + place, self._given(index), denoiser).prediction

    def _given(self, index: int) -> Callable[[int, Tensor], Tensor]:
        return lambda step, sample: self._predicted[step - index]

    def _to(self, target: int, predict: Callable[[int, Tensor], Tensor], denoiser: Denoiser | None) -> Replay:
        """Replays the pipeline to step `target`."""
        replays: list[Replay] = []

        def make(generator: torch.Generator | None) -> Run:
            common = (self._templates, self._memo, self.committed, target)
            replays.append(Replay(*common, predict, denoiser, self._runs.device, generator))
            return replays[0]

        self._replay(make)
        return replays[0]

    def _replay(self, make: Callable[[torch.Generator | None], Run]) -> None:
        device = self._runs.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), contextlib.suppress(Reached):
            self._runs.run(make)
