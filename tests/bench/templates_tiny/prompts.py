"""Changes the prompt of any template: small sizes, few steps, a pool, and latents to compare."""

from __future__ import annotations

import copy
from typing import Any

from templates_parts.placing import PARALLEL_MODEL
from templates_parts.samplings import value_of

Prompt = dict[str, dict[str, Any]]
SIZES = {
    "width": 192,
    "height": 128,
    "length": 9,
    "video_frames": 5,
    "seconds": 1.0,
    "duration": 1.0,
    "megapixels": 0.03,
    "resolution": 64,
    "tile_size": 128,
    "octree_resolution": 16,
}
"""New values for inputs of these names, typed in or linked, if they are greater; never below the input's minimum."""
STEPS = 4
_STEP_INPUTS = ("steps", "start_at_step", "end_at_step")
_SEEDS = ("seed", "noise_seed")
_TEXTS = ("text", "prompt", "tags", "value", "string_a")
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
_POOL = "parallel_pool"
_COMPRESSION = "parallel_compression"
LATENT = "parallel_latent_"


def small(prompt: Prompt, object_info: dict[str, Any]) -> Prompt:
    """The prompt with small pictures and at most `STEPS` steps, and with a node that saves the latent of each sampler.

    If a run has more steps, its start and end step change in proportion.
    """
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        inputs = node["inputs"]
        for name, least in _numbers(object_info[node["class_type"]]).items():
            wanted = max(SIZES.get(name, 0), least)
            if name in inputs and name in SIZES and (isinstance(inputs[name], list) or inputs[name] > wanted):
                inputs[name] = wanted
        steps = value_of(prompt, inputs.get("steps"))
        if isinstance(steps, int) and steps > STEPS:
            told = {name: value_of(prompt, inputs.get(name)) for name in _STEP_INPUTS}
            inputs |= {
                name: round(min(value, steps) * STEPS / steps) for name, value in told.items() if isinstance(value, int)
            }
    for key, node in prompt.items():
        if node["class_type"] in SAMPLERS:
            changed[LATENT + key] = {
                "class_type": "SaveLatent",
                "inputs": {"samples": [key, 0], "filename_prefix": "latents/one"},
            }
    return changed


def _numbers(info: dict[str, Any]) -> dict[str, float]:
    """The inputs of a node that are numbers, each with its minimum."""
    sections = (section for section in info["input"].values() if isinstance(section, dict))
    inputs = {name: one for section in sections for name, one in section.items()}
    return {name: one[1].get("min", 0) for name, one in inputs.items() if one[0] in ("INT", "FLOAT")}


def parallel(prompt: Prompt, devices: str) -> Prompt:
    """The prompt with a pool on these devices, and without compression, at every Parallel Model."""
    changed = copy.deepcopy(prompt)
    changed[_POOL] = {"class_type": "CompactParallelPool", "inputs": {"devices": devices}}
    changed[_COMPRESSION] = {"class_type": "CompactParallelCompression", "inputs": {"mode": "off"}}
    for node in changed.values():
        if node["class_type"] == PARALLEL_MODEL:
            node["inputs"] |= {"pool": [_POOL, 0], "compression": [_COMPRESSION, 0]}
    return changed


def stock(prompt: Prompt) -> Prompt:
    """The prompt without Parallel Model."""
    placed = {key for key, node in prompt.items() if node.get("class_type") == PARALLEL_MODEL}
    given = {key: prompt[key]["inputs"]["model"] for key in placed}
    left = copy.deepcopy({key: node for key, node in prompt.items() if key not in given})
    for node in left.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value and value[0] in given:
                node["inputs"][name] = given[value[0]]
    return left


def other(prompt: Prompt) -> Prompt:
    """The prompt with other texts, or with other noise if it has no text: the control, which must change the result."""
    changed = copy.deepcopy(prompt)
    every = [(node["inputs"], name) for node in changed.values() for name in _TEXTS]
    texts = [(inputs, name) for inputs, name in every if isinstance(inputs.get(name), str)]
    for inputs, name in texts:
        inputs[name] += ", and more"
    for node in changed.values() if not texts else ():
        for name in _SEEDS:
            if isinstance(node["inputs"].get(name), int):
                node["inputs"][name] += 1
    return changed
