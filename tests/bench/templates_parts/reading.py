"""Reads ComfyUI's official workflow templates from the package that ComfyUI requires, or from a wheel of it."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "comfyui-workflow-templates-json"
_MODULE = "comfyui_workflow_templates_json"
_VIRTUAL = ("Note", "MarkdownNote", "PrimitiveNode", "Reroute")
"""Types of nodes that exist only in the front end and never reach the server."""
_DIFFUSION = ("checkpoints", "diffusion_models")


@dataclass(frozen=True)
class Template:
    """One template: its name, and its graph as saved by the front end."""

    name: str
    graph: dict[str, Any]

    @property
    def types(self) -> set[str]:
        """The node types that the server must know, those inside of subgraphs included."""
        own = {subgraph["id"] for subgraph in subgraphs(self.graph)}
        return {node["type"] for graph in graphs(self.graph) for node in graph["nodes"]} - own - {*_VIRTUAL}

    @property
    def models(self) -> set[str]:
        """The names of the diffusion model files that its nodes list for download."""
        nodes = (node for graph in graphs(self.graph) for node in graph["nodes"])
        listed = (one for node in nodes for one in node.get("properties", {}).get("models") or [])
        return {one["name"] for one in listed if one.get("directory") in _DIFFUSION}


@dataclass(frozen=True)
class Release:
    """One release of the package: its version, and the folder of its templates."""

    version: str
    folder: Path | zipfile.Path

    def templates(self) -> Iterator[Template]:
        """All templates by name; the package's other files (indexes, translations) are left out."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name.lower()):
            if path.name.endswith(".json"):
                graph = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(graph, dict) and "nodes" in graph:
                    yield Template(path.name.removesuffix(".json"), graph)


def installed() -> Release:
    """The installed release."""
    return Release(importlib.metadata.version(PACKAGE), importlib.resources.files(_MODULE) / "templates")


def in_wheel(file: Path) -> Release:
    """The release in a wheel, as `pip download` saves it."""
    return Release(file.name.split("-")[1], zipfile.Path(file) / _MODULE / "templates")


def subgraphs(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """The definitions of all subgraphs of a workflow, nested ones included."""
    return graph.get("definitions", {}).get("subgraphs", [])


def graphs(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """The workflow itself and its subgraphs; each has `nodes` and `links`."""
    return [graph, *subgraphs(graph)]
