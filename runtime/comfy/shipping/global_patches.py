"""Finds ComfyUI functions that custom node packs have monkey-patched globally, and repeats the patches in a worker.

Many packs patch ComfyUI when they are imported. A worker otherwise imports a pack only if something on the model needs
it, so the packs that patch sampling code are imported there as well, and any patch that is still missing is reported.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from ...sharding.origin import home_of
from .custom_nodes import Packs
from .import_finders import PathModules

# The modules that take part in sampling. Memory and device management is each process's own.
_SAMPLING = (
    "comfy.cldm",
    "comfy.conds",
    "comfy.context_windows",
    "comfy.controlnet",
    "comfy.extra_samplers",
    "comfy.hooks",
    "comfy.k_diffusion",
    "comfy.latent_formats",
    "comfy.ldm",
    "comfy.lora",
    "comfy.model_base",
    "comfy.model_sampling",
    "comfy.ops",
    "comfy.patcher_extension",
    "comfy.sampler_helpers",
    "comfy.samplers",
    "comfy.t2i_adapter",
    "comfy.weight_adapter",
)
_NAMED = 3


class GlobalPatch(NamedTuple):
    """A ComfyUI function or class that a pack has replaced: where it is ("comfy.samplers", "CFGGuider.sample"), the
    module of the replacement (`home`), the pack's root module and the pack's name.
    """

    module: str
    name: str
    home: str
    root: str
    pack: str


def global_patches(packs: Packs) -> list[GlobalPatch]:
    """All such replacements in this process."""
    found, root_of = [], cache(packs.root_of)
    for module in [module for name, module in sys.modules.copy().items() if _takes_part(name)]:
        for name, value in _from_elsewhere(module):
            home = _home(value)
            root = root_of(home) if home and not home.startswith("comfy.") else None
            if root and (pack := packs.name_of(root)) and _was_there(module, name):
                found.append(GlobalPatch(module.__name__, name, home, root, pack))
    return found


def apply_global_patches(changes: Iterable[GlobalPatch], modules: PathModules) -> list[str]:
    """Import the packs of these changes; returns a sentence about each pack whose changes are still missing here."""
    failures: dict[str, str] = {}
    for root in dict.fromkeys(change.root for change in changes):
        try:
            modules.load(root)
        except Exception as error:  # another pack's code may raise anything; the user is told
            failures[root] = f" ({type(error).__name__}: {error})"
    missing: dict[str, list[GlobalPatch]] = {}
    for change in changes:
        if not _is_made(change):
            missing.setdefault(change.root, []).append(change)
    return [_told(of_one, failures.get(root, "")) for root, of_one in missing.items()]


def _told(changes: list[GlobalPatch], why: str) -> str:
    names = [f"{change.module}.{change.name}" for change in changes]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"The custom node pack {changes[0].pack} has replaced {', '.join(names[:_NAMED])}{more} of ComfyUI, which its "
        f"import in a worker does not do{why}: the picture may be another than without Parallel Model. Bypass its "
        "nodes, or disable the pack, and restart ComfyUI."
    )


def _is_made(change: GlobalPatch) -> bool:
    try:
        return _home(operator.attrgetter(change.name)(sys.modules[change.module])) == change.home
    except (AttributeError, KeyError):
        return False


def _takes_part(name: str) -> bool:
    return name.startswith(tuple(f"{part}." for part in _SAMPLING)) or name in _SAMPLING


def _from_elsewhere(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yields the module's functions and classes, and methods of its own classes, that are defined in other modules."""
    for name, value in vars(module).copy().items():
        if isinstance(value, type) and value.__module__ == module.__name__:
            for inner, attribute in vars(value).items():
                function = getattr(attribute, "__func__", attribute)
                if isinstance(function, FunctionType) and function.__globals__ is not vars(module):
                    yield f"{name}.{inner}", function
        elif isinstance(value, type) or (isinstance(value, FunctionType) and value.__globals__ is not vars(module)):
            yield name, value


def _home(value: Any) -> str | None:
    """The name of the module that defines a function or class."""
    if isinstance(value, FunctionType):
        home = home_of(value)
        return home.__name__ if home is not None else None
    return value.__module__ if isinstance(value, type) else None


def _was_there(module: ModuleType, name: str) -> bool:
    """Whether ComfyUI's own code has this name: packs also add their own samplers, which no one else calls."""
    code = module.__spec__.loader.get_code(module.__name__) if module.__spec__ and module.__spec__.loader else None
    return code is None or "." in name or name in code.co_names
