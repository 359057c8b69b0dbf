"""Finds the run that made a latent, a picture, a video or a sound, and the nodes that changed it since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy_execution.graph import DynamicPrompt
from comfy_execution.graph_utils import is_link

import nodes as comfy_nodes

from ..runtime.comfy.fits import against
from ..runtime.comfy.run.executing_node import Place, origin
from ..runtime.comfy.seam import EVERYTHING
from ..runtime.report.history import runs

# Output types that may carry what a run made; besides its own those of nodes that pass on whatever they are given.
_CARRIERS = ("LATENT", "IMAGE", "VIDEO", "AUDIO", "*", "COMFY_MATCHTYPE_V3")


def report_of(result: Any, place: Place | None) -> dict[str, Any]:
    """The report of the run that returned the tensor `result`; `place` is the node that asks.

    What no run returned (the second output of SamplerCustomAdvanced, a latent that another node changed, a video) is
    traced back along such links of the workflow; the nodes that changed it on the way become a warning.
    Raises ValueError if it came from no run, or from several.
    """
    if (report := runs().of(result)) is not None:
        return report
    found = {report["run_id"]: (report, between) for report, between in _behind(place)} if place is not None else {}
    if len(found) > 1:
        sampled = ", ".join(sorted(f"node {report['node']}" for report, _ in found.values()))
        raise ValueError(
            f"latent: it is made from the results of several parallel runs ({sampled}); put a Parallel Report right "
            "behind each of them."
        )
    if not found and (misfit := against(EVERYTHING)):
        raise ValueError(f"latent: it was not sampled on a pool, so there is no report. {misfit.sentence}")
    if not found:
        raise ValueError(
            "latent: it was not sampled on a pool. Either the sampler sampled nothing (denoise 0, or no steps) or its "
            "model does not come from Parallel Model, or the run is no longer among those that are kept; put Parallel "
            "Model between loader and sampler, and Parallel Report right behind the sampler or Sample Pipeline."
        )
    ((report, between),) = found.values()
    if not between:
        return report
    changed = f"The result was changed after this run, by {', '.join(between)}."
    return {**report, "warnings": [*report["warnings"], changed]}


def _behind(place: Place) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """The nearest runs upstream of a node along what they made, each with the nodes in between."""
    prompt = place.prompt
    waiting = [(source, ()) for source in _sources(prompt, place.node)]
    seen: set[str] = set()
    while waiting:
        node, between = waiting.pop(0)
        if node in seen:
            continue
        seen.add(node)
        report = runs().made_by(origin(prompt, node, place.entry))
        if report is not None:
            yield report, between
        else:
            passed = (_name(prompt, node), *between)
            waiting += [(source, passed) for source in _sources(prompt, node)]


def _sources(prompt: DynamicPrompt, node: str) -> list[str]:
    """The nodes from which a node gets what a run may have made."""
    links = [value for value in prompt.get_node(node)["inputs"].values() if is_link(value)]
    return [source for source, slot in links if prompt.has_node(source) and _carries(prompt, source, int(slot))]


def _carries(prompt: DynamicPrompt, node: str, slot: int) -> bool:
    made = comfy_nodes.NODE_CLASS_MAPPINGS[prompt.get_node(node)["class_type"]].RETURN_TYPES
    return slot < len(made) and made[slot] in _CARRIERS


def _name(prompt: DynamicPrompt, node: str) -> str:
    kind = prompt.get_node(node)["class_type"]
    return f"{comfy_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(kind, kind)} (node {prompt.get_display_node_id(node)})"
