"""Imports point one way through the layers; one of them knows ComfyUI, another one diffusers and xDiT."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_diffusion import needs_comfyui

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
PIPELINES = ("diffusers", "transformers", "accelerate", "xfuser", "yunchang")
KNOWN_IN = {**dict.fromkeys(COMFYUI, "comfy"), **dict.fromkeys(PIPELINES, "pipelines")}
"""The one layer that may import a package."""


def layer_of(path: Path) -> int:
    part = path.relative_to(RUNTIME).parts[0].removesuffix(".py")
    return next(place for place, names in enumerate(LAYERS) if part in names)


def imports_of(path: Path, source: str) -> list[str]:
    """The imported modules: absolute names, and paths below the repository as "runtime.…" for relative imports.

    Those of importlib.import_module are among them where the name is written there.
    """
    package = path.relative_to(ROOT).parts[:-1]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.Call):
            found += [_named(node)] if _named(node) else []
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            found += [".".join((*base, *([node.module] if node.module else ()), alias.name)) for alias in node.names]
    return found


def _named(call: ast.Call) -> str:
    """The absolute name that a call of import_module imports; "" for any other call, and for a computed name."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = call.args[0] if function == "import_module" and call.args else None
    if isinstance(given, ast.JoinedStr) and given.values:
        given = given.values[0]
    value = given.value if isinstance(given, ast.Constant) else ""
    return value if isinstance(value, str) and not value.startswith(".") else ""


def wrong_imports(path: Path, source: str) -> list[str]:
    """The imports of a file of the runtime that point upwards, or at what only another layer may know."""
    layer = layer_of(path)
    wrong = []
    for name in imports_of(path, source):
        parts = name.split(".")
        if parts[0] == "runtime" and len(parts) > 1:
            above = next(place for place, names in enumerate(LAYERS) if parts[1] in names) > layer
            wrong += [name] if above else []
        elif KNOWN_IN.get(parts[0]) not in (None, *LAYERS[layer]):
            wrong.append(name)
    return wrong


def foreign_imports(path: Path, source: str) -> list[str]:
    """The imports of a file outside of the runtime that only the runtime's layer of pipelines may have."""
    return [name for name in imports_of(path, source) if name.split(".")[0] in PIPELINES]


FILES = sorted(path for path in RUNTIME.rglob("*.py") if path.parent != RUNTIME or path.name != "__init__.py")


def test_every_import_points_down():
    assert {path.relative_to(ROOT): wrong for path in FILES if (wrong := wrong_imports(path, path.read_text()))} == {}


def test_nodes_and_commands_leave_diffusers_to_the_runtime():
    files = [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "workflows").rglob("*.py")]
    assert {path.relative_to(ROOT): found for path in files if (found := foreign_imports(path, path.read_text()))} == {}


IMPORTED = """
import asyncio, conftest, sys
import server
from compact_parallel.nodes.extension import CompactParallelExtension
for node in asyncio.run(CompactParallelExtension().get_node_list()):
    node.GET_SCHEMA()
print(sorted({packages!r} & sys.modules.keys()))
import accelerate
print(sorted({packages!r} & sys.modules.keys()))
"""


@needs_comfyui
def test_comfyui_loads_none_of_the_packages_of_pipelines_for_the_nodes():
    """Loading them takes seconds, which nobody should wait for who runs no pipeline."""
    code = IMPORTED.format(packages={*PIPELINES} - {"transformers"})  # ComfyUI itself loads that one
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    before, after = done.stdout.splitlines()[-2:] or (done.stderr, "")
    assert before == "[]"
    assert after == "['accelerate']"  # negative control


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
        ("planner/link.py", "import diffusers"),
        ("comfy/run/pipeline_run.py", "from diffusers import DiffusionPipeline"),
        ("comfy/run/pipeline_run.py", "def late():\n    return importlib.import_module('xfuser')"),
        ("sharding/hooks.py", "from transformers.modeling_utils import PreTrainedModel"),
        ("pool/worker.py", "import accelerate.hooks"),
        ("attention/ring.py", "import_module(f'yunchang.{name}')"),
        ("pipelines/handler.py", "import comfy.sd"),
        ("pipelines/handler.py", "from ..comfy.run import pipeline_run"),
    ],
)
def test_a_wrong_import_is_found(file, line):
    assert wrong_imports(RUNTIME / file, line)


def test_a_right_import_is_no_wrong_one():
    """Negative control."""
    for line in ("import diffusers", "from transformers import AutoTokenizer", "import_module('xfuser.config')"):
        assert wrong_imports(RUNTIME / "pipelines" / "loading.py", line) == []
        assert foreign_imports(ROOT / "nodes" / "parallel_pipeline.py", line) != []
    assert foreign_imports(ROOT / "nodes" / "parallel_pipeline.py", "from ..runtime.pipelines.folder import x") == []


def test_no_file_is_long():
    assert [path for path in FILES if len(path.read_text().splitlines()) > 400] == []
