"""Import finders that let a worker import modules under the names they have in the parent.

ComfyUI registers custom nodes and its own extras in sys.modules under their file paths, so their classes pickle under
names that no ordinary import can find.
"""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import operator
import os
import sys
from collections.abc import Sequence
from types import FunctionType, ModuleType
from typing import Any


def under_dotted_path(obj: Any) -> tuple[str, str] | None:
    """(module name, qualified name) of a class, function or module whose module is named by a file path with a dot.

    Pickle cannot name those: `import` splits the path at its dots. None for everything else.
    """
    if isinstance(obj, ModuleType):
        name, qualified_name = obj.__name__, ""
    elif isinstance(obj, (type, FunctionType)):
        name, qualified_name = obj.__module__ or "", obj.__qualname__
    else:
        return None
    if not os.path.isabs(name) or "." not in name or name not in sys.modules:
        return None
    try:
        found = attribute(sys.modules[name], qualified_name)
    except AttributeError:
        return None
    return (name, qualified_name) if found is obj else None


def attribute(module: ModuleType, qualified_name: str) -> Any:
    """The object with this qualified name in a module; the module itself for ""."""
    return operator.attrgetter(qualified_name)(module) if qualified_name else module


class PathModules(importlib.abc.MetaPathFinder):
    """Finds modules by a table {name: file}; a package's submodules need no entry."""

    def __init__(self) -> None:
        self.table: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module in the table, else None."""
        file = self.table.get(fullname)
        return importlib.util.spec_from_file_location(fullname, file) if file else None

    def load(self, name: str) -> ModuleType:
        """The module of that name, loaded on first use.

        `import` takes the part before a dot for a package, so it cannot load "/ComfyUI-0.30/comfy_extras/nodes_x".
        Raises ModuleNotFoundError for a name that is not in the table.
        """
        package = name.rpartition(".")[0]
        if package in self.table:  # loading the package may import this module
            self.load(package)
        if name not in sys.modules:
            spec = self.find_spec(name, None)
            if spec is None or spec.loader is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]


class _WithPromptServer(importlib.abc.Loader):
    """Loads ComfyUI's `server` module and gives it a PromptServer that never starts.

    Custom nodes add their routes to it when they are imported.
    """

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        idle_server(module.PromptServer)


def idle_server(kind: type) -> Any:
    """A PromptServer that never starts: it gets an event loop, and None for arguments that newer ComfyUIs require."""
    needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    named = [p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return kind(*[asyncio.new_event_loop() if place == 0 else None for place, _ in enumerate(named)])


class IdlePromptServer(importlib.abc.MetaPathFinder):
    """Ensures that code that imports `server` in a worker finds PromptServer.instance."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The ordinary spec of `server` with a loader that makes the instance; None for any other name."""
        if fullname != "server":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithPromptServer(spec.loader)
        return spec


class UtilsOfComfyUI(importlib.abc.MetaPathFinder):
    """Finds ComfyUI's package `utils`, which its server imports.

    ComfyUI's main.py imports it before custom nodes are loaded. Later the folder `comfy`, whose utils.py would be found
    first, is put at the front of sys.path, and a worker gets that later sys.path.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of `utils` in ComfyUI's own folder; None for any other name."""
        comfy = importlib.util.find_spec("comfy") if fullname == "utils" else None
        if comfy is None:
            return None
        folders = [os.path.dirname(folder) for folder in comfy.submodule_search_locations or ()]
        return importlib.machinery.PathFinder.find_spec(fullname, folders)


def install_finders() -> PathModules:
    """Install the finders in this process. Returns the PathModules, whose table each job extends."""
    finder = PathModules()
    sys.meta_path.insert(0, IdlePromptServer())
    sys.meta_path.insert(0, UtilsOfComfyUI())
    sys.meta_path.insert(0, finder)
    return finder
