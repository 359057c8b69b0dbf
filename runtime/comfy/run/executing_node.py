"""Identifies the node that is executing, so that nodes behind it (Parallel Report) can find the run's report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from comfy_execution.graph import DynamicPrompt
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context


@dataclass(frozen=True)
class Place:
    """The executing node: its prompt, its id, and the index in the list of inputs it runs over (0 if there is none)."""

    prompt_id: str
    node: str
    entry: int
    prompt: DynamicPrompt

    def origins(self) -> tuple[str, ...]:
        """The keys by which a run of this node is found: its own, and that of the node that was expanded into it."""
        nodes = {self.node, self.prompt.get_real_node_id(self.node)}
        return tuple(origin(self.prompt, node, self.entry) for node in nodes)


def place() -> Place | None:
    """The node that is executing in this thread; None outside a workflow."""
    context = get_executing_context()
    if context is None:
        return None
    return Place(context.prompt_id, context.node_id, context.list_index or 0, get_progress_state().dynprompt)


def origin(prompt: DynamicPrompt, node: str, entry: int) -> str:
    """A key for a node's output: the same as long as the node and all nodes before it are, as in ComfyUI's cache.

    So a node whose output came from the cache has the key from the prompt that made it, and a node of another workflow
    has a different key even if it has the same id.
    """
    described: dict[str, Any] = {}
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if found not in described and prompt.has_node(found):
            asked = prompt.get_node(found)
            described[found] = [asked["class_type"], asked["inputs"]]
            waiting += [value[0] for value in asked["inputs"].values() if is_link(value)]
    text = json.dumps([node, entry, described], sort_keys=True, default=_object)
    return hashlib.sha256(text.encode()).hexdigest()


def _object(value: Any) -> str:
    """A string for an input that JSON cannot hold: expanded nodes get objects as they are."""
    return f"{type(value).__qualname__} {id(value)}"
