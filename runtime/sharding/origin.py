"""Finds the module that a function or class belongs to, and so whose code it is.

A function belongs to the module in whose namespace (`__globals__`) it runs. A namespace cannot be borrowed, as
`functools.wraps` borrows a name, and it identifies the code in a worker, too: a function pickled by value gets a
namespace of its own there, and one pickled by name runs in the worker's module. File names are no evidence: a pickler
may change them.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Collection, Iterator
from types import FunctionType, ModuleType
from typing import Any


def home_of(function: FunctionType) -> ModuleType | None:
    """The loaded module in whose namespace the function runs; None if the namespace is not a module's."""
    return namesake(function.__globals__)


def namesake(namespace: dict[str, Any]) -> ModuleType | None:
    """The loaded module that has this namespace; None if it is not a module's."""
    module = sys.modules.get(namespace.get("__name__", ""))
    return module if module is not None and vars(module) is namespace else None


def homes_of(function: Any) -> Iterator[ModuleType | None]:
    """Yields the modules of a callable and of what it wraps; None for code that is in no module or cannot be seen.

    A class belongs to the module it is defined in, a callable object to that of its class.
    """
    for part in _decorated(function):
        kind = part if isinstance(part, type) else type(part)
        if isinstance(part, FunctionType):
            yield home_of(part)
        elif is_class_of((kind.__module__.partition(".")[0],), kind):
            yield sys.modules[kind.__module__]
        else:
            yield None


def is_function_of(packages: Collection[str], function: Any) -> bool:
    """Whether all code of `function` and of the functions it wraps is in modules of these packages.

    The standard library counts as one of them. False for a callable that is no function or method: its code is not
    seen.
    """
    return all(isinstance(part, FunctionType) and _is_home(home_of(part), packages) for part in _decorated(function))


def is_comfyui_s(thing: Any) -> bool:
    """Whether a function or class is ComfyUI's or its extra nodes', whose modules are named by their file paths."""
    return all(home is not None and (_is_core(home) or is_extra(home)) for home in homes_of(thing))


def is_extra(module: ModuleType) -> bool:
    """Whether the module is one of ComfyUI's extra nodes, in its folder comfy_extras."""
    if "comfy" not in sys.modules:  # as in a worker that runs a pipeline
        return False
    extras = os.path.join(os.path.dirname(sys.modules["comfy"].__path__[0]), "comfy_extras", "")
    return (getattr(module, "__file__", None) or "").startswith(extras)


def _is_core(module: ModuleType) -> bool:
    return module.__name__.startswith(("comfy.", "comfy_api."))


def is_class_of(packages: Collection[str], kind: type) -> bool:
    """Whether a class is found under its name in a module of these packages.

    A class defined inside a function cannot be found: it counts as one of the module it names, so look at its functions
    too.
    """
    if kind.__module__.partition(".")[0] not in packages:
        return False
    try:
        return "<locals>" in kind.__qualname__ or _found(kind) is kind
    except (AttributeError, KeyError):
        return False


def _found(kind: type) -> Any:
    return operator.attrgetter(kind.__qualname__)(sys.modules[kind.__module__])


def _is_home(module: ModuleType | None, packages: Collection[str]) -> bool:
    root = module.__name__.partition(".")[0] if module is not None else ""
    return root in packages or root in sys.stdlib_module_names


def _decorated(function: Any) -> Iterator[Any]:
    """Yields the function and those it wraps, from the outside in; for methods their functions."""
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        yield getattr(function, "__func__", function)
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return
