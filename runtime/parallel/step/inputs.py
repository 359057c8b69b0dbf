"""Where the sampler will be at the coming calls: the inputs of a round.

Two ways, which differ in what they know of the sampler:
- *line*: straight on from the present latent along the predictions (DDIM); costs one step per call;
- *replay*: the sampler function run once more with the predictions so far, then with those of the round, up to the call
  that is wanted. It knows all that the sampler does: its history, its order, its noise. Costs a pass over all steps.
Given what is extrapolated they tell where to evaluate, and given what was evaluated there, where the sampler will be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .noise import RememberedNoise
from .space import Call

# The prediction D for a call of the round and its place in the round, from 0.
Predict = Callable[[Call, int], Tensor]


def along_the_line(call: Call, levels: list[float], predict: Predict) -> list[Call]:
    """`call`, and the calls at the noise levels after `levels[0]`, which is that of `call`."""
    calls = [call]
    for place, (level, after) in enumerate(pairwise(levels)):
        slope = (calls[-1].x - predict(calls[-1], place)) / level
        calls.append(Call(calls[-1].x + (after - level) * slope, torch.full_like(call.sigma, after)))
    return calls


class Answering:
    """A model, as samplers see it, whose predictions come from `answer`; everything else is the real model's."""

    def __init__(self, model: Any, answer: Callable[..., Tensor]) -> None:
        self._model = model
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        """The prediction for latent `x` (B, ...) at noise levels `sigma` (B,)."""
        return self._answer(x, sigma, **extra)


class _Reached(Exception):
    """The sampler has asked for the call that was wanted."""


class Replay:
    """The sampler function with its arguments, ready to be run again from the start."""

    def __init__(
        self, sample: Callable[..., Tensor], model: Any, x: Tensor, sigmas: Tensor, extra: dict, options: dict
    ) -> None:
        """`sample`(model, x, sigmas, extra_args=, callback=, disable=, **options), as in k-diffusion."""
        self._sample = sample
        self._model = model
        self._x = x.clone()
        self._sigmas = sigmas
        self._extra = extra
        self._options = options
        self._random = _random_states(x.device)
        self._noise = RememberedNoise()

    @property
    def sigmas(self) -> list[float]:
        """The schedule that the sampler was given."""
        return self._sigmas.tolist()

    @property
    def nbytes(self) -> int:
        """Bytes of one latent."""
        return self._x.numel() * self._x.element_size()

    def run(self, model: Any, callback: Callable | None, disable: bool | None) -> Tensor:
        """The sampler's own run, with the real arguments. Returns its samples."""
        with self._noise.in_use():
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
        """The noise levels of all calls the sampler will make, which depend on nothing that the model says."""
        levels = []

        def answer(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            levels.append(float(sigma.reshape(-1)[0]))
            return torch.zeros_like(x)

        narrow = self._x[(slice(None), *(slice(1) for _ in self._x.shape[1:]))]
        with self._same_noise():
            self._run(narrow, answer)
        return levels

    def look_ahead(self, denoised: list[Tensor], count: int, predict: Predict) -> list[Call]:
        """The next `count` calls after those that were answered with `denoised`."""
        calls: list[Call] = []
        place = 0

        def answer(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            nonlocal place
            place += 1
            if place <= len(denoised):
                return denoised[place - 1].to(x.device)
            calls.append(Call(x.clone(), sigma))
            if len(calls) == count:
                raise _Reached
            return predict(calls[-1], len(calls) - 1)

        with self._same_noise(), contextlib.suppress(_Reached):
            self._run(self._x, answer)
        return calls

    def _run(self, x: Tensor, answer: Callable[..., Tensor]) -> None:
        # Copies of everything: some samplers write to their arguments.
        with self._noise.in_use():
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
        """What the sampler draws from torch's global generators is what it drew when it started."""
        devices = [device for device in self._random if device != "cpu"]
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self._random["cpu"])
            for device in devices:
                torch.cuda.set_rng_state(self._random[device], device)
            yield


def _random_states(device: torch.device) -> dict[Any, Tensor]:
    on_gpu = {device: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_gpu}
