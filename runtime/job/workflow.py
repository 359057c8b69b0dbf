"""Where in the running workflow this is: what a run leaves in its report, so that it is found again behind it."""

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
    """The node that is executed: its prompt, its id, and which entry of a list it is at (0 where there is none)."""

    prompt_id: str
    node: str
    entry: int
    prompt: DynamicPrompt

    def origins(self) -> tuple[str, ...]:
        """What a run of this node is found by; also by the node that was expanded into this one."""
        nodes = {self.node, self.prompt.get_real_node_id(self.node)}
        return tuple(origin(self.prompt, node, self.entry) for node in nodes)


def place() -> Place | None:
    """The node that is executed in this thread; None where no workflow is."""
    context = get_executing_context()
    if context is None:
        return None
    return Place(context.prompt_id, context.node_id, context.list_index or 0, get_progress_state().dynprompt)


def origin(prompt: DynamicPrompt, node: str, entry: int) -> str:
    """A name for what a node makes: the same as long as it and all before it are the same, as for ComfyUI's cache.

    So a node whose output came from the cache has the one of the prompt that made it, and a node of another workflow
    has another even where it has the same id.
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
    """An input that an expanded node was given as it is, which JSON has no word for."""
    return f"{type(value).__qualname__} {id(value)}"
