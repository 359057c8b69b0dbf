"""A graph as API form: what a person chose and the links; inputs that keep their default stay out where they may."""

from __future__ import annotations

import json
from typing import Any

from .graph import NOTE, Graph, Output

_LINE = 120


def to_api(graph: Graph) -> dict[str, Any]:
    """The API form."""
    nodes = sorted((node for node in graph.nodes if node.type != NOTE), key=lambda node: node.id)
    return {
        str(node.id): {"class_type": node.type, "inputs": _inputs(node), "_meta": {"title": node.title}}
        for node in nodes
    }


def _inputs(node: Any) -> dict[str, Any]:
    required = node.info["input"].get("required", {})
    found = {
        name: [str(value.node.id), value.slot] if isinstance(value, Output) else value
        for name, value in node.values.items()
    }
    for one in node.inputs:
        if one.name in required and one.is_widget and one.name not in found:
            found[one.name] = one.default
    return found


def write_api(workflow: dict[str, Any]) -> str:
    """JSON with one line per input where one line for all of them would be too long."""
    nodes = []
    for number, node in workflow.items():
        inputs = f'    "inputs": {json.dumps(node["inputs"], ensure_ascii=False)},'
        if len(inputs) > _LINE:
            lines = [f"      {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in node["inputs"].items()]
            inputs = '    "inputs": {\n' + ",\n".join(lines) + "\n    },"
        kind, title = json.dumps(node["class_type"]), json.dumps(node["_meta"]["title"], ensure_ascii=False)
        nodes.append(f'  "{number}": {{\n    "class_type": {kind},\n{inputs}\n    "_meta": {{"title": {title}}}\n  }}')
    return "{\n" + ",\n".join(nodes) + "\n}\n"
