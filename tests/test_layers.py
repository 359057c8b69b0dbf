"""Imports point one way through the layers, and only one of them knows ComfyUI."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "runtime"

# Each layer may import those before it, and itself.
LAYERS = (
    ("host",),
    ("config",),
    ("report",),
    ("compression",),
    ("attention",),
    ("sharding",),
    ("pool",),
    ("parallel",),
    ("planner",),
    ("pipelines",),
    ("comfy",),
)
COMFYUI = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution")


def layer_of(path: Path) -> int:
    part = path.relative_to(RUNTIME).parts[0].removesuffix(".py")
    return next(place for place, names in enumerate(LAYERS) if part in names)


def imports_of(path: Path, source: str) -> list[str]:
    """The imported modules: absolute names, and paths below the repository as "runtime.…" for relative imports."""
    package = path.relative_to(ROOT).parts[:-1]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            found += [".".join((*base, *([node.module] if node.module else ()), alias.name)) for alias in node.names]
    return found


def wrong_imports(path: Path, source: str) -> list[str]:
    """The imports of a file of the runtime that point upwards, or at ComfyUI from a layer that may not know it."""
    layer = layer_of(path)
    wrong = []
    for name in imports_of(path, source):
        parts = name.split(".")
        if parts[0] == "runtime" and len(parts) > 1:
            above = next(place for place, names in enumerate(LAYERS) if parts[1] in names) > layer
            wrong += [name] if above else []
        elif parts[0] in COMFYUI and LAYERS[layer] != ("comfy",):
            wrong.append(name)
    return wrong


FILES = sorted(path for path in RUNTIME.rglob("*.py") if path.parent != RUNTIME or path.name != "__init__.py")


def test_every_import_points_down():
    assert {path.relative_to(ROOT): wrong for path in FILES if (wrong := wrong_imports(path, path.read_text()))} == {}


def test_no_circle_between_the_folders_of_the_layer_that_knows_comfyui():
    edges = set()
    for path in FILES:
        parts = path.relative_to(ROOT).parts
        for name in imports_of(path, path.read_text()) if parts[1] == "comfy" and len(parts) > 3 else ():
            other = name.split(".")
            if other[:2] == ["runtime", "comfy"] and (RUNTIME / "comfy" / other[2]).is_dir() and other[2] != parts[2]:
                edges.add((parts[2], other[2]))
    while edges:  # take away what imports nothing of the rest
        free = {importing for importing, _ in edges} - {imported for _, imported in edges}
        assert free, f"a circle: {sorted(edges)}"
        edges = {edge for edge in edges if edge[0] not in free}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("parallel/cfg.py", "import comfy.samplers"),
        ("sharding/hooks.py", "from comfy.ldm import modules"),
        ("attention/axis.py", "from ..parallel.mesh import Mesh"),
        ("compression/codecs/int8.py", "from ...attention import axis"),
        ("planner/link.py", "def late():\n    from ..comfy import fits"),
    ],
)
def test_a_wrong_import_is_found(file, line):
    assert wrong_imports(RUNTIME / file, line)


def test_no_file_is_long():
    assert [path for path in FILES if len(path.read_text().splitlines()) > 400] == []
