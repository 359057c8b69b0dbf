"""Facts of jobs for tests of decisions: those of a real guider on a real model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import comfy.samplers
from compact_parallel.runtime.comfy.describe.describe import describe
from compact_parallel.runtime.comfy.fits import lost
from compact_parallel.runtime.planner import observed, sharing
from compact_parallel.runtime.planner.run_plan import RunPlan


def arguments(patcher, noise, sampler="euler", steps=8):
    """What outer_sample is called with, as far as it counts here."""
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", steps)
    return SimpleNamespace(sampler=sampler, sigmas=sigmas, noise=noise, denoise_mask=None, seed=1)


def facts_of(guider, noise, sampler="euler"):
    return describe(guider, arguments(guider.model_patcher, noise, sampler))


def degrees_for(config, world, guider, noise, *, asked=None, **choices):
    """The degrees of a job with this guider and latents like `noise`; `asked` instead of what the guider asks for."""
    facts = facts_of(guider, noise)
    return sharing.degrees_for(config, replace(facts, asked=asked or facts.asked), world, lost(), **choices)


def degrees_alone(degrees, guider, noise, **choices):
    return sharing.degrees_alone(degrees, facts_of(guider, noise), lost(), **choices)


def unmet(config, degrees, guider, noise):
    """The warnings about a run with these degrees, in which the guider asked for what it was expected to."""
    facts = facts_of(guider, noise)
    plan = RunPlan(config, degrees, compression=config.compression)
    return observed.warnings(plan, facts, lost(), observed.Observed(facts.asked.usual, facts.asked.usual, {}, 1))
