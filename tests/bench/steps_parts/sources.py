"""The models of the step benchmark: the trained model and the mixtures, each with its measure of likeness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import stepping
import tiny_picture
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.report.metrics import psnr

MOST = 120.0
"""The largest likeness in decibels; results that are closer count as equal."""


@dataclass(frozen=True)
class Trained:
    """Samples pictures (1, H, W, 3) from the tiny trained model; likeness is their PSNR."""

    size: int

    def __call__(self, sampler: str, steps: int, seed: int, reuse: dict | None) -> tuple[Any, int]:
        patcher, wrapper = tiny_picture.model_for(self.size), None
        if reuse is not None:
            patcher, wrapper = stepping.in_rounds(patcher, StepReuseConfig(mode="look_ahead", **reuse))
        samples = tiny_picture.sample(patcher, seed, size=self.size, steps=steps, sampler=sampler)
        rounds = len(wrapper.accepted) if wrapper is not None else calls_of(sampler, steps)
        return tiny_picture.picture(samples), rounds

    @staticmethod
    def likeness(picture: Any, exact: Any) -> float:
        return min(MOST, psnr(picture, exact))


@dataclass(frozen=True)
class Mixtures:
    """Samples (1, 4, 8, 8) from a mixture; likeness is -20 log10 |x - x0| / |x0|."""

    flow: bool

    def __call__(self, sampler: str, steps: int, seed: int, reuse: dict | None) -> tuple[Any, int]:
        config = StepReuseConfig(mode="look_ahead", **reuse) if reuse is not None else None
        samples, rounds = stepping.sample_mixture(
            stepping.Mixture(flow=self.flow, seed=seed), sampler, steps, seed, config, batch=1
        )
        return samples, len(rounds)

    @staticmethod
    def likeness(samples: Any, exact: Any) -> float:
        return min(MOST, -20 * math.log10(max(float((samples - exact).norm() / exact.norm()), 1e-9)))


def calls_of(sampler: str, steps: int) -> int:
    """The number of model calls of a sampler, counted on a mixture."""
    model = stepping.Mixture(flow=True, seed=0)
    return len(stepping.sample_mixture(model, sampler, steps, 0, batch=1)[1])


def trained(size: int) -> Trained:
    return Trained(size)


def mixtures() -> dict[str, Mixtures]:
    return {"flow": Mixtures(flow=True), "epsilon": Mixtures(flow=False)}
