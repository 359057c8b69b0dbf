"""Spaces: what is kept of a prediction, so that it changes little from call to call.

A prediction D at latent x and noise level sigma is kept as u in D = a x + b u, with a and b known from sigma alone.
B batch entries; u has the shape of the latent, (B, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One call of the model: latent `x` (B, ...), noise levels `sigma` (B,), equal for all entries."""

    x: Tensor
    sigma: Tensor

    @property
    def level(self) -> float:
        """The noise level as a number."""
        return float(self.sigma.reshape(-1)[0])


def deviation(level: float, *, flow: bool) -> float:
    """The standard deviation of latents at a noise level, for data of variance 1."""
    return math.hypot(1 - level if flow else 1.0, level)


class Slopes:
    """u is the slope (x - D) / sigma of the sampler's path: the velocity of a flow model, else the noise (epsilon).

    A sampler that adds no noise follows these slopes. They are closest to a straight line over sigma in a flow model
    and over log(sigma) in the others.
    """

    def __init__(self, *, flow: bool) -> None:
        self._flow = flow

    def coordinate(self, level: float) -> float:
        """Where u is closest to a straight line."""
        return level if self._flow else math.log(level)

    def factors(self, level: float) -> tuple[float, float]:
        """(a, b) at a noise level."""
        return 1.0, -level

    def follows(self, level: float) -> float:
        """The part of a small change of x that D makes, too. On a flow model's path most of it (measured: keeping the
        slope is 3 to 6 dB closer); else that of the best linear denoiser (1 to 2 dB closer than keeping the slope).
        """
        return 1.0 if self._flow else 1 / (1 + level**2)


class Preconditioned:
    """u is what is left of D beside the best linear denoiser for data of variance 1, at its natural scale.

    Where a sampler adds noise, most of a change of x is noise, of which D takes only a part: that of this denoiser.
    Karras et al. 2022, arXiv 2206.00364, table 1, c_skip and c_out, with x = s x0 + sigma n where s is 1, or 1 - sigma
    in a flow model.
    """

    def __init__(self, *, flow: bool) -> None:
        self._flow = flow

    def coordinate(self, level: float) -> float:
        """The angle between data and noise, where u is closest to a straight line."""
        return math.atan2(level, 1 - level if self._flow else 1.0)

    def factors(self, level: float) -> tuple[float, float]:
        """(a, b) at a noise level."""
        scale, spread = 1 - level if self._flow else 1.0, deviation(level, flow=self._flow)
        return scale / spread**2, level / spread

    def follows(self, level: float) -> float:
        """The part of a small change of x that D makes, too."""
        return self.factors(level)[0]


Space = Slopes | Preconditioned


def encode(space: Space, call: Call, denoised: Tensor) -> Tensor:
    """u, of a prediction D made at `call`."""
    a, b = space.factors(call.level)
    return (denoised - a * call.x) / b


def decode(space: Space, call: Call, kept: Tensor) -> Tensor:
    """D at `call`, of u."""
    a, b = space.factors(call.level)
    return a * call.x + b * kept


def moved(space: Space, denoised: Tensor, made: Call, asked: Call) -> Tensor:
    """D at `asked`, of one made at a latent close by and the same noise level; D itself where the latents are equal."""
    return denoised + space.follows(asked.level) * (asked.x - made.x)
