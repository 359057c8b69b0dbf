"""Puts Parallel Model before every sampler and guider of a saved workflow, as a person does by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .reading import graphs, subgraphs

PARALLEL_MODEL = "CompactParallelModel"
_SAMPLES = {"LATENT", "GUIDER"}


def placed(workflow: dict[str, Any]) -> dict[str, Any]:
    """A copy of a workflow in the front end's form, with a Parallel Model in front of each sampler and guider.

    The link to the sampler ends at the new node, so that what it comes from (a node's output, a subgraph's input, a
    chain of reroutes) stays as it is, and a new link goes on from there.
    """
    changed = copy.deepcopy(workflow)
    new_node = _numbers(changed, "last_node_id", "lastNodeId", lambda graph: [node["id"] for node in graph["nodes"]])
    new_link = _numbers(changed, "last_link_id", "lastLinkId", lambda graph: [_ends(link)[0] for link in graph["links"]])
    own = {subgraph["id"] for subgraph in subgraphs(changed)}
    for graph in graphs(changed):
        for node in [node for node in graph["nodes"] if node["type"] not in own]:
            slot = model_slot(node)
            if slot is not None and node["inputs"][slot].get("link") is not None:
                _insert(graph, node, slot, new_node(), new_link())
    return changed


def model_slot(node: dict[str, Any]) -> int | None:
    """The number of the input by which this node samples a MODEL; None if it does not sample.

    A sampler or a guider takes a MODEL and makes a LATENT or a GUIDER of it. What gives the MODEL on is a patch.
    """
    outputs = {output["type"] for output in node.get("outputs") or []}
    if not outputs & _SAMPLES or "MODEL" in outputs:
        return None
    return next((slot for slot, one in enumerate(node.get("inputs") or []) if one["type"] == "MODEL"), None)


def _insert(graph: dict[str, Any], sampler: dict[str, Any], slot: int, node_id: int, link_id: int) -> None:
    """Puts the new node between the sampler's input number `slot` and what is linked to it."""
    old = sampler["inputs"][slot]["link"]
    (place,) = (place for place, link in enumerate(graph["links"]) if _ends(link)[0] == old)
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
    """The place of a node, which older front ends saved as {"0": x, "1": y}."""
    return (pos["0"], pos["1"]) if isinstance(pos, dict) else (pos[0], pos[1])


def _ends(link: list | dict[str, Any]) -> tuple[int, int]:
    """The id of a link and of the node it ends at; links are lists in a workflow and objects in a subgraph."""
    return (link["id"], link["target_id"]) if isinstance(link, dict) else (link[0], link[3])


def _numbers(
    workflow: dict[str, Any], key: str, state_key: str, used: Callable[[dict[str, Any]], list[int]]
) -> Callable[[], int]:
    """A function that gives new ids, greater than all of the workflow, and notes the last one where it is kept."""
    last = max((int(one) for graph in graphs(workflow) for one in used(graph)), default=0)
    last = max(last, workflow.get(key, 0), *(graph["state"][state_key] for graph in subgraphs(workflow)), 0)

    def new() -> int:
        nonlocal last
        last += 1
        workflow[key] = last
        for subgraph in subgraphs(workflow):
            subgraph["state"][state_key] = last
        return last

    return new
