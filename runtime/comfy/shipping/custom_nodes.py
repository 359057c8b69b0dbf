"""Custom node packs: which pack an object's code is from, and the plain data in the packs' global variables."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import comfy.utils
import torch

from .import_finders import PathModules

_COMFYUI = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(comfy.utils.__file__))), "")
_CUSTOM_NODES = os.path.join(_COMFYUI, "custom_nodes", "")
_THIS_PACK = __name__.removesuffix(".runtime.comfy.shipping.custom_nodes")
_DEEPEST = 10
_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Tensor)


class Namespace(NamedTuple):
    """The variables of a module, or those of an object or a dict in one; `shared` are the names whose plain data
    travelled."""

    module: str
    variables: dict[str, Any]
    shared: frozenset[str]


class Packs:
    """The custom node packs that ComfyUI has loaded in this process, its own extras included.

    ComfyUI names a pack's module by the path of its folder, dots replaced, and a single file's by the file's path.
    """

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        for name, module in _loaded().items():
            file = getattr(module, "__file__", None)
            if not file or not os.path.isabs(name) or name == _THIS_PACK:
                continue
            folder = os.path.dirname(file)
            if os.path.splitext(file)[0] == name:
                self._files[file] = name
            elif folder.replace(".", "_x_") == name:
                self._folders[folder + os.sep] = name

    def root_of(self, module_name: str) -> str | None:
        """The root module of the pack in whose folder a module's file is, whatever its name; None outside all packs."""
        file = getattr(sys.modules.get(module_name), "__file__", None) or ""
        if not file.startswith(tuple(self._folders)):
            return self._files.get(file)
        return next(name for folder, name in self._folders.items() if file.startswith(folder))

    def name_of(self, root: str | None) -> str | None:
        """The pack's name for people: its folder or file. None for ComfyUI's own extras."""
        home = next((home for home, name in (self._files | self._folders).items() if name == root), None)
        if home is None or (home.startswith(_COMFYUI) and not home.startswith(_CUSTOM_NODES)):
            return None
        return os.path.basename(home.rstrip(os.sep))

    def modules(self) -> dict[str, str]:
        """{name: file} of every loaded module of every pack, also those imported under other names than a path."""
        return {
            name: module.__file__
            for name, module in _loaded().items()
            if getattr(module, "__file__", None) and (os.path.isabs(name) or self.root_of(name))
        }

    def names(self) -> dict[str, str]:
        """{module: pack name} of every loaded module of every pack that is not ComfyUI's own."""
        named = {module: self.name_of(self.root_of(module)) for module in self.modules()}
        return {module: name for module, name in named.items() if name}

    def states(self, roots: Iterable[str]) -> dict[str, dict[str, Any]]:
        """{module: {name: value}} of the plain data in the global variables of these packs' modules.

        A node may set such a variable when it runs, in the parent, and a patch may read it when it samples, in a
        worker. Plain data are numbers, strings, tensors, devices, dtypes, and containers of them; of a dict, and of an
        object of a pack's own class, the entries that are plain. Everything else that a module holds (servers, locks,
        classes, models) is in a worker as its import made it.
        """
        wanted = set(roots)
        given = {name: vars(module) for name, module in _loaded().items() if self.root_of(name) in wanted}
        return {name: state for name, variables in given.items() if (state := _data_in(variables))}


def pack_in(error: BaseException, names: dict[str, str]) -> str | None:
    """The pack whose code was innermost in an error's traceback, of those in `names`; None if there is none."""
    modules = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((names[module] for module in reversed(modules) if module in names), None)


def adopt(states: dict[str, dict[str, Any]], modules: PathModules) -> None:
    """Set the variables that `Packs.states` found in another process in the modules of this one."""
    for name, state in states.items():
        _update(vars(modules.load(name)), state)


def namespaces(states: dict[str, dict[str, Any]], modules: PathModules) -> list[Namespace]:
    """This process's namespaces with the variables in `states`: modules, and objects in them, in `states`' order."""
    return [found for name, state in states.items() for found in _holders(name, vars(modules.load(name)), state)]


def _holders(owner: str, variables: dict, state: dict) -> Iterator[Namespace]:
    yield Namespace(owner, variables, frozenset(state))
    for name, value in state.items():
        if isinstance(value, _Some):
            yield from _holders(owner, _entries_of(variables.get(name)), value)


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.copy().items() if isinstance(module, ModuleType)}


def _data_in(variables: dict) -> dict[str, Any]:
    return {name: value for name, value in _plain_entries(variables).items() if not name.startswith("__")}


def _plain_entries(entries: dict, seen: set[int] | None = None, depth: int = 0) -> dict:
    """The entries that are plain data. Objects reachable by several paths, as packs often have them, are kept once."""
    plain, seen = {}, set() if seen is None else seen
    for name, value in entries.items():
        if not _is_plain(name, depth):
            continue
        if _is_plain(value, depth):
            plain[name] = value
        elif depth < _DEEPEST and id(value) not in seen:
            seen.add(id(value))
            if some := _plain_entries(_entries_of(value), seen, depth + 1):
                plain[name] = _Some(some)
    return plain


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is plain data throughout. A value that holds itself is not."""
    if depth > _DEEPEST:
        return False
    if type(value) is dict:
        return all(_is_plain(key, depth + 1) and _is_plain(entry, depth + 1) for key, entry in value.items())
    if type(value) in (list, tuple, set, frozenset):
        return all(_is_plain(entry, depth + 1) for entry in value)
    return type(value) in _SCALARS


def _entries_of(value: Any) -> dict:
    """The entries that can be set one by one: those of a dict, or the attributes of an object of a pack's own class."""
    if type(value) is dict:
        return value
    of_a_pack = type(value) is SimpleNamespace or os.path.isabs(type(value).__module__)
    return vars(value) if of_a_pack and hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module) else {}


class _Some(dict):
    """The plain entries of a dict or object that is not plain as a whole."""


def _update(variables: dict, state: dict) -> None:
    """Set variables. A container that is plain throughout is replaced: it is then one object everywhere in the job."""
    for name, value in state.items():
        if isinstance(value, _Some):
            _update(_entries_of(variables.get(name)), value)
        else:
            variables[name] = value
