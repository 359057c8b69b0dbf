"""Finds the samplers of a prompt with their model file, guider and inputs, without running anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .placing import PARALLEL_MODEL

Prompt = dict[str, dict[str, Any]]

_BY_CFG = ("KSampler", "KSamplerAdvanced", "SamplerCustom")
_CFG_INPUTS = ("model", "positive", "negative", "cfg")
_BY_GUIDER = "SamplerCustomAdvanced"
_LINKED = ("model", "model_negative", "positive", "negative", "conditioning", "cond1", "cond2")
_FILES = ("unet_name", "ckpt_name", "model_name")
_SWITCH = "ComfySwitchNode"


@dataclass(frozen=True)
class Sampling:
    """One sampler node of a prompt.

    Attributes:
        file: the model file; None if the chain of nodes that makes the model begins with no known loader.
        guider, inputs: the guider node's class, and its inputs: values, or True for models and conditions.
        sampler: the name of the sampler in ComfyUI's list, else the class of the node that makes it.
        parallel: whether its model comes from Parallel Model.
    """

    file: str | None
    guider: str
    inputs: dict[str, Any]
    sampler: str
    parallel: bool


def samplings(prompt: Prompt) -> Iterator[Sampling]:
    """Every sampler node of the prompt, in the order of the prompt."""
    for node in prompt.values():
        kind, inputs = node.get("class_type", ""), node["inputs"]
        if kind in _BY_CFG:
            yield _sampling(prompt, "CFGGuider", {name: inputs.get(name) for name in _CFG_INPUTS}, inputs)
        elif kind == _BY_GUIDER and (guider := _source(prompt, inputs.get("guider"))):
            yield _sampling(prompt, guider.get("class_type", ""), guider["inputs"], inputs)


def _sampling(prompt: Prompt, guider: str, given: dict[str, Any], inputs: dict[str, Any]) -> Sampling:
    model = _source(prompt, given.get("model")) or {}
    held = {name: one for name, one in given.items() if one is not None}
    return Sampling(
        file=_file(prompt, given.get("model")),
        guider=guider,
        inputs={name: True if name in _LINKED else value_of(prompt, one) for name, one in held.items()},
        sampler=_sampler(prompt, inputs),
        parallel=model.get("class_type") == PARALLEL_MODEL,
    )


def _sampler(prompt: Prompt, inputs: dict[str, Any]) -> str:
    node = _source(prompt, inputs.get("sampler"))
    named = inputs if node is None else node["inputs"]
    value = value_of(prompt, named.get("sampler_name"))
    return value if isinstance(value, str) else (node or {}).get("class_type", "")


def _file(prompt: Prompt, link: Any) -> str | None:
    """The model file of the loader at the beginning of the chain of nodes that makes this MODEL."""
    while node := _source(prompt, link):
        if name := next((name for name in _FILES if name in node["inputs"]), None):
            value = value_of(prompt, node["inputs"][name])
            return value if isinstance(value, str) else None  # a node may have changed since the template was saved
        link = node["inputs"].get("model")
    return None


def value_of(prompt: Prompt, given: Any) -> Any:
    """The value of an input, also if it comes from a primitive or a switch; None if it is known only in a run."""
    given = _through_switches(prompt, given)
    if not _is_link(given):
        return given
    return value_of(prompt, prompt.get(given[0], {"inputs": {}})["inputs"].get("value"))


def _source(prompt: Prompt, given: Any) -> dict[str, Any] | None:
    """The node that an input is linked to; None if it is not linked, or the node is known only in a run."""
    given = _through_switches(prompt, given)
    return prompt.get(given[0]) if _is_link(given) else None


def _through_switches(prompt: Prompt, given: Any) -> Any:
    """The value or link that the switches before an input pass on; None if their state is known only in a run."""
    while _is_link(given) and (node := prompt.get(given[0], {})).get("class_type") == _SWITCH:
        switch = value_of(prompt, node["inputs"].get("switch"))
        given = None if switch is None else node["inputs"].get("on_true" if switch else "on_false")
    return given


def _is_link(given: Any) -> bool:
    return isinstance(given, list) and len(given) == 2 and isinstance(given[0], str)
