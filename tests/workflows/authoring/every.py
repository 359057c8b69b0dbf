"""All workflows in both forms."""

from __future__ import annotations

from typing import Any

from . import pictures, pipelines, tiny, videos
from .api_form import to_api, write_api
from .graph import Graph
from .ui_form import to_ui, write_ui

WORKFLOWS = {**tiny.WORKFLOWS, **pictures.WORKFLOWS, **videos.WORKFLOWS, **pipelines.WORKFLOWS}


def forms(object_info: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The text of the UI form and of the API form by the workflow's name."""
    made = {}
    for name, describe in WORKFLOWS.items():
        graph = Graph(object_info)
        describe(graph)
        made[name] = (write_ui(to_ui(graph, name)), write_api(to_api(graph)))
    return made
