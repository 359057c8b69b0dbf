"""A graph as UI form: what ComfyUI's browser saves and opens."""

from __future__ import annotations

import json
from typing import Any

from .files import FILES
from .graph import NOTE, Graph, Node, Output
from .layout import place


def to_ui(graph: Graph, name: str) -> dict[str, Any]:
    """The UI form, format version 0.4, with the graph laid out."""
    boxes = place(graph)
    links = _links(graph)
    return {
        "id": name,
        "revision": 0,
        "last_node_id": max(node.id for node in graph.nodes),
        "last_link_id": len(links),
        "nodes": [_node(node, order, links) for order, node in enumerate(graph.nodes)],
        "links": links,
        "groups": [
            {"id": i, "title": group.title, "bounding": list(box), "color": group.colour, "font_size": 24, "flags": {}}
            for i, (group, box) in enumerate(boxes, 1)
        ],
        "config": {},
        "extra": {"ds": {"scale": 0.5, "offset": [100, 150]}},
        "version": 0.4,
    }


def _links(graph: Graph) -> list[list[Any]]:
    """[id, from node, from output, to node, to input, type] of every link."""
    found: list[list[Any]] = []
    for node in graph.nodes:
        for slot, one in enumerate(node.inputs):
            value = node.values.get(one.name)
            if isinstance(value, Output):
                kind = value.node.info["output"][value.slot]
                found.append([len(found) + 1, value.node.id, value.slot, node.id, slot, kind])
    return found


def _node(node: Node, order: int, links: list[list[Any]]) -> dict[str, Any]:
    into = {link[4]: link[0] for link in links if link[3] == node.id}
    made: dict[str, Any] = {
        "id": node.id,
        "type": node.type,
        "pos": list(node.position),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [
            {
                "name": one.name,
                "type": one.type,
                **({"widget": {"name": one.name}} if one.is_widget else {}),
                "link": into.get(slot),
            }
            for slot, one in enumerate(node.inputs)
        ],
        "outputs": [
            {"name": output, "type": kind, "links": [link[0] for link in links if link[1:3] == [node.id, slot]]}
            for slot, (output, kind) in enumerate(zip(node.info["output_name"], node.info["output"]))
        ],
    }
    if node.type == NOTE:
        return made | {
            "title": node.title,
            "properties": {},
            "widgets_values": [node.text],
            "color": "#432",
            "bgcolor": "#653",
        }
    if node.title != (node.info["display_name"] or node.type):
        made["title"] = node.title
    properties: dict[str, Any] = {"Node name for S&R": node.type}
    if models := [
        FILES[value].model(value) for value in node.values.values() if isinstance(value, str) and value in FILES
    ]:
        properties["models"] = models
    return made | {"properties": properties, "widgets_values": _field_values(node)}


def _field_values(node: Node) -> list[Any]:
    """The fields' values in order; a field that is fed by a link shows its default."""
    values = []
    for one in node.inputs:
        if not one.is_widget:
            continue
        value = node.values.get(one.name, one.default)
        values.append(one.default if isinstance(value, Output) else value)
        if one.options.get("control_after_generate"):
            values.append("fixed")
        if one.options.get("image_upload"):
            values.append("image")
    return values


def write_ui(workflow: dict[str, Any]) -> str:
    """JSON with one line per node, link and group, so that changes can be read."""
    parts = []
    for key, value in workflow.items():
        if isinstance(value, list) and value:
            lines = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in value)
            parts.append(f"  {json.dumps(key)}: [\n{lines}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
