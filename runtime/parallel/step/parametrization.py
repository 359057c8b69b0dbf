"""Parametrizations of a prediction that change little from call to call, such as velocity, epsilon or Karras' F.

A prediction D at latent x and noise level sigma is stored as u in D = a x + b u, with a and b known from sigma alone.
A model that says something else in place of D, such as a velocity, is treated alike: see `Space`.
B batch entries; u has the shape of the latent, (B, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One call of the model: latent `x` (B, ...), noise levels `sigma` (B,), equal for all entries.

    `level`: the noise level as a number, so that nobody has to wait for the device to tell it.
    """

    x: Tensor
    sigma: Tensor
    level: float


@dataclass(frozen=True)
class Process:
    """How noise n is added to data x0 of variance 1: x = (1 - sigma) x0 + sigma n in a flow model, else x0 + sigma n.

    `noise_scale`: the standard deviation of n.
    """

    flow: bool
    noise_scale: float = 1.0

    def parts(self, level: float) -> tuple[float, float]:
        """The standard deviations of data and noise in a latent at a noise level."""
        return 1 - level if self.flow else 1.0, level * self.noise_scale

    def deviation(self, level: float) -> float:
        """The standard deviation of latents at a noise level."""
        return math.hypot(*self.parts(level))

    def skip(self, level: float) -> float:
        """a in the best linear denoiser, a x (c_skip of Karras et al. 2022, arXiv 2206.00364, table 1)."""
        return self.parts(level)[0] / self.deviation(level) ** 2


class Space(Protocol):
    """How predictions are kept: as u in P = a x + b u, where P is what the sampler is given for a call at latent x.

    P is the denoised latent D itself, or what a model says in its place, such as a velocity.
    """

    def coordinate(self, level: float) -> float:
        """The variable in which u is closest to a straight line."""

    def factors(self, level: float) -> tuple[float, float]:
        """(a, b) at a noise level."""

    def follows(self, level: float) -> float:
        """Approximate dP/dx."""

    def deviation(self, level: float) -> float:
        """The standard deviation of latents at a noise level."""

    def denoised(self, call: Call, prediction: Tensor) -> Tensor:
        """D, of which `prediction` speaks."""


class OfDenoised:
    """The part of a Space that is the same for all whose predictions are D itself."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def deviation(self, level: float) -> float:
        """See `Space`."""
        return self._process.deviation(level)

    def denoised(self, call: Call, prediction: Tensor) -> Tensor:
        """See `Space`."""
        return prediction


class Slopes(OfDenoised):
    """u is the slope (x - D) / sigma of the sampler's path: the velocity of a flow model, else the noise (epsilon).

    A sampler that adds no noise follows these slopes. They are closest to a straight line over sigma in a flow model
    and over log(sigma) in the others.
    """

    def coordinate(self, level: float) -> float:
        """The variable in which u is closest to a straight line: sigma in a flow model, else log(sigma)."""
        return level if self._process.flow else math.log(level)

    def factors(self, level: float) -> tuple[float, float]:
        """(a, b) at a noise level."""
        return 1.0, -level

    def follows(self, level: float) -> float:
        """Approximate dD/dx. In a flow model 1, which keeps the slope (measured: 3 to 6 dB closer); else that of the
        best linear denoiser (1 to 2 dB closer than keeping the slope).
        """
        return 1.0 if self._process.flow else self._process.skip(level)


class Preconditioned(OfDenoised):
    """u is D minus the best linear denoiser, divided by its natural scale (c_out of Karras et al. 2022).

    If a sampler adds noise, most of a change of x is noise, and D follows only a part of it: that of this denoiser.
    """

    def coordinate(self, level: float) -> float:
        """The angle between data and noise, in which u is closest to a straight line."""
        data, noise = self._process.parts(level)
        return math.atan2(noise, data)

    def factors(self, level: float) -> tuple[float, float]:
        """(a, b) at a noise level."""
        return self._process.skip(level), self._process.parts(level)[1] / self._process.deviation(level)

    def follows(self, level: float) -> float:
        """Approximate dD/dx: that of the best linear denoiser."""
        return self._process.skip(level)


def space_for(process: Process, *, noisy: bool) -> Space:
    """The Space for a sampler of this process; `noisy`: it adds noise at its steps."""
    return Preconditioned(process) if noisy else Slopes(process)


def encode(space: Space, call: Call, prediction: Tensor) -> Tensor:
    """Convert a prediction P made at `call` to u."""
    a, b = space.factors(call.level)
    return (prediction - a * call.x) / b


def decode(space: Space, call: Call, kept: Tensor) -> Tensor:
    """Convert u to the prediction P at `call`."""
    a, b = space.factors(call.level)
    return a * call.x + b * kept


def moved(space: Space, prediction: Tensor, made: Call, asked: Call) -> Tensor:
    """P at `asked`, to first order from the one made at a nearby latent of the same noise level; exact if equal."""
    return prediction + space.follows(asked.level) * (asked.x - made.x)
