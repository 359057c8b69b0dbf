"""Counts the conditions that a guider asks for in a call, with the pack's own count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.samplers
import comfy_extras.nodes_custom_sampler as guiders
import torch
from comfy.model_patcher import ModelPatcher
from compact_parallel.runtime.comfy.describe.conditions_per_call import asked_by
from compact_parallel.runtime.comfy.describe.customisations import scan_job

from .samplings import Sampling

_MODELS = ("model", "model_negative")
_LEVELS = (1.0, 0.0)


def conditions(sampling: Sampling) -> int | None:
    """The conditions of a usual call; None if a number of the guider (CFG) is computed in a run, or is not known.

    ComfyUI's own node makes the guider, with an empty model, and runtime/comfy/describe/conditions_per_call.py counts.
    """
    node = getattr(guiders, sampling.guider, None)
    numbers = [value for name, value in sampling.inputs.items() if "cfg" in name]
    if node is None or None in sampling.inputs.values() or not all(isinstance(one, int | float) for one in numbers):
        return None
    cpu = torch.device("cpu")
    model = ModelPatcher(torch.nn.Module(), cpu, cpu)
    given = {name: _made(name, value, model) for name, value in sampling.inputs.items()}
    known = sampling.sampler in comfy.samplers.SAMPLER_NAMES
    sampler = comfy.samplers.sampler_object(sampling.sampler) if known else None
    guider = node.execute(**given)[0]
    guider.conds = guider.original_conds  # as a guider does when it begins to sample
    return asked_by(guider, scan_job(guider), SimpleNamespace(sampler=sampler, sigmas=_LEVELS)).usual


def _made(name: str, value: Any, model: ModelPatcher) -> Any:
    """The value of an input of the guider in a run: the model, a condition, or a number."""
    if name in _MODELS:
        return model
    return [[torch.zeros(1, 1, 1), {}]] if value is True else value
