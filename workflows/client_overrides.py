"""Sets inputs of a workflow from texts "node.input=value", where the node is named by its id or its title."""

from __future__ import annotations

import json
from typing import Any

from .client import Workflow

Spec = list[Any]
"""An input as described by GET /object_info: its type, or its list of choices, followed by its options."""

_DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
_NUMBERS: dict[str, tuple[type, ...]] = {"INT": (int,), "FLOAT": (int, float), "BOOLEAN": (bool,)}


class WrongOverride(Exception):
    """The text does not fit this workflow; the message says which nodes and inputs there are."""


def inputs_of(info: dict[str, Any]) -> dict[str, Spec]:
    """All inputs of a node by their names in API form; those of a DynamicCombo's options as "combo.input".

    `info` is the node's entry of GET /object_info, or the "inputs" of an option.
    """
    found: dict[str, Spec] = {}
    for section in ("required", "optional"):
        for name, spec in info.get(section, {}).items():
            found[name] = spec
            if spec[0] == _DYNAMIC_COMBO:
                for option in spec[1]["options"]:
                    found |= {f"{name}.{child}": inner for child, inner in inputs_of(option["inputs"]).items()}
    return found


def split(text: str, workflow: Workflow) -> tuple[str, str, str]:
    """(node id, input, value) of "node.input=value"; titles and inputs may contain dots. Raises WrongOverride."""
    target, equals, value = text.partition("=")
    dots = [i for i, letter in enumerate(target) if letter == "."]
    if not equals or not dots:
        raise WrongOverride(f"{text!r} is not node.input=value, for example KSampler.steps=8.")
    for dot in reversed(dots):
        name = target[:dot]
        nodes = [name] if name in workflow else [node for node in workflow if title_of(workflow, node) == name]
        if len(nodes) > 1:
            raise WrongOverride(
                f"{text!r}: nodes {', '.join(nodes)} are all called {name!r}; use one of these numbers."
            )
        if nodes:
            return nodes[0], target[dot + 1 :], value
    there = ", ".join(f"{node} ({title_of(workflow, node)})" for node in workflow)
    raise WrongOverride(f"{text!r}: there is no node {target[: dots[0]]!r}; this workflow has {there}.")


def title_of(workflow: Workflow, node: str) -> str:
    """The title of a node, or its class if it has no title."""
    return workflow[node].get("_meta", {}).get("title") or workflow[node]["class_type"]


def override(workflow: Workflow, text: str, object_info: dict[str, Any]) -> None:
    """Sets one input of the workflow in place.

    Args:
        object_info: the server's description of the workflow's classes; the input of an unknown class is set unchecked,
            because the server will refuse the workflow.
    Raises:
        WrongOverride: there is no such node or input, or the value is of another type.
    """
    node, name, value = split(text, workflow)
    class_type = workflow[node]["class_type"]
    if class_type not in object_info:
        workflow[node]["inputs"][name] = value
        return
    inputs = inputs_of(object_info[class_type]["input"])
    if name not in inputs:
        where = f"{title_of(workflow, node)} (node {node})"
        raise WrongOverride(f"{text!r}: {where} has no input {name!r}; it has {', '.join(inputs) or 'none'}.")
    workflow[node]["inputs"][name] = _value(text, value, inputs[name])


def _value(text: str, value: str, spec: Spec) -> Any:
    kind = spec[0]
    if isinstance(kind, list) or kind in ("STRING", "COMBO", _DYNAMIC_COMBO):
        return value
    try:
        parsed = json.loads(value.lower() if kind == "BOOLEAN" else value)
    except ValueError:
        parsed = None
    is_link = isinstance(parsed, list) and len(parsed) == 2
    wanted = _NUMBERS.get(kind, ())
    if is_link or (isinstance(parsed, wanted) and isinstance(parsed, bool) == (kind == "BOOLEAN")):
        return parsed
    example = {"INT": "8", "FLOAT": "3.5", "BOOLEAN": "true"}.get(kind, '["4", 0], a node and its output')
    raise WrongOverride(f"{text!r}: this input takes {kind}, for example {example}.")
