"""Computes the latents at which the sampler will make its coming calls: the inputs of a round.

There are two ways:
- *line*: DDIM steps from the present latent along the predictions; costs one step per call;
- *replay*: the sampler function is run again from its start with the predictions so far, then with those of the round,
  up to the wanted call. This includes the sampler's history, order and noise. Costs a pass over all steps.
With extrapolated predictions they give the latents to evaluate; with the evaluated predictions they give the latents
that the sampler will reach, by which the former are judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .parametrization import Call

# Returns the prediction D for a call of the round, given the call and its place in the round, from 0.
Predict = Callable[[Call, int], Tensor]


def along_the_line(call: Call, levels: list[float], predict: Predict) -> list[Call]:
    """Returns `call` and the calls at the following noise levels; `levels[0]` is that of `call`."""
    calls = [call]
    for place, (level, after) in enumerate(pairwise(levels)):
        slope = (calls[-1].x - predict(calls[-1], place)) / level
        calls.append(Call(calls[-1].x + (after - level) * slope, torch.full_like(call.sigma, after), after))
    return calls


class Answering:
    """A model for samplers whose predictions come from `answer`; all other attributes are the real model's."""

    def __init__(self, model: Any, answer: Callable[..., Tensor]) -> None:
        self._model = model
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        """The prediction for latent `x` (B, ...) at noise levels `sigma` (B,)."""
        return self._answer(x, sigma, **extra)


class _Reached(Exception):
    """The sampler has made the wanted call; ends the replay."""


class Replay:
    """A sampler function with its arguments, which can be run again from the start with given predictions."""

    def __init__(
        self,
        sample: Callable[..., Tensor],
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra: dict,
        options: dict,
        same_draws: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        """`sample`(model, x, sigmas, extra_args=, callback=, disable=, **options), as in k-diffusion.

        `same_draws`: a context around each run, in which the sampler draws again what it drew before.
        """
        self._sample = sample
        self._model = model
        self._x = x.clone()
        self._sigmas = sigmas
        self._extra = extra
        self._options = options
        self._random = _random_states(x.device)
        self._same_draws = same_draws

    @property
    def sigmas(self) -> list[float]:
        """The schedule of the sampler."""
        return self._sigmas.tolist()

    @property
    def nbytes(self) -> int:
        """Bytes of one latent."""
        return self._x.numel() * self._x.element_size()

    def run(self, model: Any, callback: Callable | None, disable: bool | None) -> Tensor:
        """The real run of the sampler. Returns its samples."""
        with self._same_draws():
            return self._sample(
                model,
                self._x.clone(),
                self._sigmas,
                extra_args=self._extra,
                callback=callback,
                disable=disable,
                **self._options,
            )

    def rehearse(self) -> list[float]:
        """The noise levels of all calls the sampler will make, found with predictions of zero.

        They do not depend on the predictions for samplers that can look ahead.
        """
        levels = []

        def answer(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            levels.append(sigma.reshape(-1)[0])
            return torch.zeros_like(x)

        narrow = self._x[(slice(None), *(slice(1) for _ in self._x.shape[1:]))]
        with self._same_noise():
            self._run(narrow, answer)
        return torch.stack(levels).tolist() if levels else []

    def look_ahead(self, denoised: list[Tensor], levels: Sequence[float], predict: Predict) -> list[Call]:
        """The next calls after those whose predictions are `denoised`, if the model returns `predict`.

        `levels`: their noise levels, as many as there shall be calls.
        """
        calls: list[Call] = []
        place = 0

        def answer(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            nonlocal place
            place += 1
            if place <= len(denoised):
                return denoised[place - 1].to(x.device)
            calls.append(Call(x.clone(), sigma, levels[len(calls)]))
            if len(calls) == len(levels):
                raise _Reached
            return predict(calls[-1], len(calls) - 1)

        with self._same_noise(), contextlib.suppress(_Reached):
            self._run(self._x, answer)
        return calls

    def _run(self, x: Tensor, answer: Callable[..., Tensor]) -> None:
        # Copies of everything: some samplers write to their arguments.
        with self._same_draws():
            self._sample(
                Answering(self._model, answer),
                x.clone(),
                self._sigmas.clone(),
                extra_args=dict(self._extra),
                callback=None,
                disable=True,
                **self._options,
            )

    @contextlib.contextmanager
    def _same_noise(self) -> Iterator[None]:
        """While active, torch's global generators are in the state they had when the sampler started."""
        devices = [device for device in self._random if device != "cpu"]
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self._random["cpu"])
            for device in devices:
                torch.cuda.set_rng_state(self._random[device], device)
            yield


def _random_states(device: torch.device) -> dict[Any, Tensor]:
    on_gpu = {device: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_gpu}
