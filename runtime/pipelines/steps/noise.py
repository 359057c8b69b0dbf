"""The noise levels of a diffusers scheduler, found by asking it to add noise, and what its model's predictions mean.

x = alpha x0 + sigma n with data x0 and noise n of variance 1; D is the denoised latent.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...parallel.step.parametrization import Call

EPSILON, VELOCITY, SAMPLE, FLOW = "epsilon", "v_prediction", "sample", "flow"
LEAST = 1e-6
"""The least noise level that counts, as a share of the largest: logarithms of it stay finite."""


@dataclass(frozen=True)
class Noise:
    """How much of data (`alpha`) and noise (`sigma`) is in the latents of a step."""

    alpha: float
    sigma: float

    @property
    def deviation(self) -> float:
        """The standard deviation of latents."""
        return math.hypot(self.alpha, self.sigma)

    @property
    def skip(self) -> float:
        """dD/dx of the best linear denoiser (Karras et al. 2022, arXiv 2206.00364)."""
        return self.alpha / self.deviation**2


def prediction_of(scheduler: Any) -> str:
    """What the model of this scheduler predicts."""
    if hasattr(scheduler, "scale_noise") or "Flow" in type(scheduler).__name__:
        return FLOW
    kind = getattr(scheduler.config, "prediction_type", VELOCITY)
    if kind == "flow_prediction":
        return FLOW
    # The model of an EDM scheduler predicts Karras' F whatever it is called; v is the same but for the sign.
    return kind if kind in (EPSILON, SAMPLE) and "EDM" not in type(scheduler).__name__ else VELOCITY


def probe(scheduler: Any, timestep: Any, device: torch.device) -> Noise | None:
    """The noise in the latents of a step at `timestep`, which must be under way; None if the scheduler cannot tell."""
    zero, one = torch.zeros(1, 1, device=device), torch.ones(1, 1, device=device)
    at = torch.as_tensor(timestep, device=device).reshape(-1)[:1]
    with contextlib.suppress(Exception):  # whatever keeps it from telling, the run goes on without
        if hasattr(scheduler, "scale_noise"):
            alpha, sigma = scheduler.scale_noise(one, at, zero), scheduler.scale_noise(zero, at, one)
        else:
            alpha, sigma = scheduler.add_noise(one, zero, at), scheduler.add_noise(zero, one, at)
        found = Noise(float(alpha), float(sigma))
        if math.isfinite(found.deviation) and found.deviation > 0:
            return found
    return None


def levels_of(noises: list[Noise | None], prediction: str) -> tuple[list[float], dict[float, Noise]]:
    """A noise level per step, by which its predictions are extrapolated, and the noise at each.

    sigma in a flow model, else sigma / alpha, or where alpha may be 0 the angle between data and noise. Where a
    scheduler could not tell all of its noises, they are taken to turn evenly from noise to data.
    """
    steps = len(noises)
    if any(noise is None for noise in noises):
        angles = [math.pi / 2 * (1 - step / steps) for step in range(steps)]
        return angles, {angle: Noise(math.cos(angle), math.sin(angle)) for angle in angles}
    if prediction == FLOW:
        levels = [noise.sigma for noise in noises]
    elif all(noise.alpha > LEAST * noise.sigma for noise in noises):
        levels = [noise.sigma / noise.alpha for noise in noises]
    else:
        levels = [math.atan2(noise.sigma, noise.alpha) for noise in noises]
    return levels, dict(zip(levels, noises))


def meaning(prediction: str, noise: Noise) -> tuple[float, float]:
    """(p, q) in D = p x + q P, where P is what the model predicts:

    epsilon   P = n                        p = 1 / alpha       q = -sigma / alpha
    velocity  P = (alpha n - sigma x0) / d p = alpha / d^2     q = -sigma / d       with d^2 = alpha^2 + sigma^2
    sample    P = x0                       p = 0               q = 1
    flow      P = n - x0                   p = 1               q = -sigma
    """
    if prediction == EPSILON:
        alpha = max(noise.alpha, LEAST)
        return 1 / alpha, -noise.sigma / alpha
    if prediction == SAMPLE:
        return 0.0, 1.0
    if prediction == FLOW:
        return 1.0, -noise.sigma
    return noise.skip, -noise.sigma / noise.deviation


def denoised_of(scheduler: Any, timestep: Any, sample: Tensor, prediction: Tensor) -> Tensor | None:
    """D at a step that is under way; None if the scheduler cannot tell, or the model also predicts a variance."""
    noise = probe(scheduler, timestep, sample.device) if prediction.shape == sample.shape else None
    if noise is None:
        return None
    p, q = meaning(prediction_of(scheduler), noise)
    return p * sample + q * prediction


class Predictions:
    """The Space (see parametrization.py) of what a diffusers model predicts, after guidance.

    A scheduler that adds no noise follows P, so P itself is kept; else D minus the best linear denoiser, as Karras' F.
    """

    def __init__(self, prediction: str, noises: Mapping[float, Noise], *, noisy: bool) -> None:
        self._prediction, self._noises, self._noisy = prediction, noises, noisy
        self._by_angle = any(noise.alpha <= LEAST * noise.sigma for noise in noises.values())

    def coordinate(self, level: float) -> float:
        """See `Space`."""
        noise = self._noises[level]
        if self._prediction == FLOW and not self._noisy:
            return noise.sigma
        if self._noisy or self._by_angle or self._prediction != EPSILON:
            return math.atan2(noise.sigma, noise.alpha)
        return math.log(max(noise.sigma / noise.alpha, LEAST))

    def factors(self, level: float) -> tuple[float, float]:
        """See `Space`."""
        if not self._noisy:
            return 0.0, 1.0
        noise = self._noises[level]
        _, q = meaning(self._prediction, noise)
        return self.follows(level), noise.sigma / noise.deviation / q if q else 1.0

    def follows(self, level: float) -> float:
        """See `Space`: dD/dx is that of the best linear denoiser; a velocity of a flow model stays as it is."""
        if self._prediction == FLOW and not self._noisy:
            return 0.0
        p, q = meaning(self._prediction, self._noises[level])
        return (self._noises[level].skip - p) / q if q else 0.0

    def deviation(self, level: float) -> float:
        """See `Space`."""
        return self._noises[level].deviation

    def denoised(self, call: Call, prediction: Tensor) -> Tensor:
        """See `Space`."""
        p, q = meaning(self._prediction, self._noises[call.level])
        return p * call.x + q * prediction
