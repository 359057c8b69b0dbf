"""Replaces the function of a SAMPLER while it samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...parallel.resume import Predictions

Sample = Callable[..., Tensor]
"""sample(model, x, sigmas, extra_args=, callback=, disable=, **options), as in k-diffusion."""


def sampling_with(make: Callable[[Sample], Sample]) -> Callable[..., Tensor]:
    """A SAMPLER_SAMPLE wrapper that has the sampler sample by `make`(its function)."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        sampler = executor.class_obj
        sample = sampler.sampler_function
        sampler.sampler_function = make(sample)
        try:
            return executor(*args, **kwargs)
        finally:
            sampler.sampler_function = sample

    return wrapper


def one_by_one(predictions: Predictions) -> Callable[..., Tensor]:
    """A SAMPLER_SAMPLE wrapper for a sampler whose first predictions may be known; the others are evaluated in turn."""

    def make(sample: Sample) -> Sample:
        return lambda model, *args, **kwargs: sample(predictions.one_by_one(model), *args, **kwargs)

    return sampling_with(make)
