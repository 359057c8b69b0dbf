"""Code that bears another's name, on pools of real workers: it counts as what it is."""

from __future__ import annotations

import functools
import sys

import cloudpickle
import comfy.samplers
from comfy.k_diffusion.sampling import sample_euler, sample_heun
from compact_parallel.runtime.config import StepReuseConfig
from sampling import TOLERANCE, model, parallel, relative_error, report, sample_with

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2, warmup_calls=1, tail_calls=0)


@functools.wraps(sample_euler)
def around_euler(model, x, sigmas, *args, **kwargs):
    """A pack's sampler around ComfyUI's euler, under its name."""
    middle = len(sigmas) // 2
    x = sample_heun(model, x, sigmas[: middle + 1], *args, **kwargs)
    return sample_euler(model, x.flip(-1), sigmas[middle:], *args, **kwargs)


def test_a_sampler_under_another_s_name_does_not_look_ahead():
    sampler = comfy.samplers.KSAMPLER(around_euler)
    expected = sample_with(model("flux"), sampler, steps=8)
    assert relative_error(sample_with(model("flux"), comfy.samplers.ksampler("euler"), steps=8), expected) > 0.1
    samples = sample_with(parallel(model("flux"), 2, step_reuse=REUSE, step_degree=2), sampler, steps=8)
    assert relative_error(samples, expected) < TOLERANCE
    assert any("is not known to this pack" in warning for warning in report()["warnings"])
