"""Inserts Parallel Model before every sampler and guider of a saved workflow, as a user does by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .reading import graphs, subgraphs

PARALLEL_MODEL = "CompactParallelModel"
_SAMPLES = {"LATENT", "GUIDER"}


def placed(workflow: dict[str, Any]) -> dict[str, Any]:
    """A copy of a workflow in the front end's form, with a Parallel Model in front of each sampler and guider.

    The link to the sampler now ends at the new node, so that its origin (a node's output, a subgraph's input, a chain
    of reroutes) stays unchanged, and a new link leads from there to the sampler.
    """
    changed = copy.deepcopy(workflow)
    nodes = [node["id"] for graph in graphs(changed) for node in graph["nodes"]]
    links = [_id(link) for graph in graphs(changed) for link in graph["links"]]
    new_node = _numbers(changed, "last_node_id", "lastNodeId", nodes)
    new_link = _numbers(changed, "last_link_id", "lastLinkId", links)
    own = {subgraph["id"] for subgraph in subgraphs(changed)}
    for graph in graphs(changed):
        for node in [node for node in graph["nodes"] if node["type"] not in own]:
            slot = model_slot(node)
            if slot is not None and node["inputs"][slot].get("link") is not None:
                _insert(graph, node, slot, new_node(), new_link())
    return changed


def model_slot(node: dict[str, Any]) -> int | None:
    """The index of the input with the MODEL that this node samples; None if it does not sample.

    A sampler or a guider takes a MODEL and CONDITIONING, and outputs a LATENT or a GUIDER. A node that outputs a MODEL
    is a patch. For DualModelGuider it is the first of the two models, to which the guider belongs.
    """
    inputs = [one["type"] for one in node.get("inputs") or []]
    outputs = {output["type"] for output in node.get("outputs") or []}
    samples = {"MODEL", "CONDITIONING"} <= {*inputs} and outputs & _SAMPLES and "MODEL" not in outputs
    return inputs.index("MODEL") if samples else None


def _insert(graph: dict[str, Any], sampler: dict[str, Any], slot: int, node_id: int, link_id: int) -> None:
    """Inserts the new node into the link of the sampler's input number `slot`."""
    old = sampler["inputs"][slot]["link"]
    (place,) = (place for place, link in enumerate(graph["links"]) if _id(link) == old)
    into, on = graph["links"][place], (link_id, node_id, 0, sampler["id"], slot, "MODEL")
    if isinstance(into, dict):
        into["target_id"], into["target_slot"] = node_id, 0
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        graph["links"].append(dict(zip(keys, on)))
    else:
        into[3:5] = node_id, 0
        graph["links"].append([*on])
    sampler["inputs"][slot]["link"] = link_id
    x, y = _place(sampler["pos"])
    graph["nodes"].append(
        {
            "id": node_id,
            "type": PARALLEL_MODEL,
            "pos": [x - 60, y - 200],
            "size": [300, 160],
            "flags": {},
            "order": sampler.get("order", 0),
            "mode": sampler.get("mode", 0),
            "inputs": [{"name": "model", "type": "MODEL", "link": old}],
            "outputs": [{"name": "MODEL", "type": "MODEL", "links": [link_id]}],
            "properties": {"Node name for S&R": PARALLEL_MODEL},
            "widgets_values": ["error"],
        }
    )


def _place(pos: list[float] | dict[str, float]) -> tuple[float, float]:
    """The position of a node, which older front ends saved as {"0": x, "1": y}."""
    return (pos["0"], pos["1"]) if isinstance(pos, dict) else (pos[0], pos[1])


def _id(link: list | dict[str, Any]) -> int:
    """The id of a link; links are lists in a workflow and objects in a subgraph."""
    return link["id"] if isinstance(link, dict) else link[0]


def _numbers(workflow: dict[str, Any], key: str, state_key: str, used: list[int]) -> Callable[[], int]:
    """A function that returns new ids, greater than all in the workflow, and records the last one in the workflow."""
    states = [workflow, *(subgraph["state"] for subgraph in subgraphs(workflow))]
    last = max([*map(int, used), *(state.get(kept, 0) for state in states for kept in (key, state_key))])

    def new() -> int:
        nonlocal last
        last += 1
        workflow[key] = last
        for state in states[1:]:
            state[state_key] = last
        return last

    return new
