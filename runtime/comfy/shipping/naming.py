"""Names objects on a model for messages to the user: attribute, owner and custom node pack."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import comfy.samplers
import torch

from .counterparts import Counterparts
from .custom_nodes import Packs

# Classes of these modules do not tell whose code made an object.
_NOBODYS = {*sys.stdlib_module_names, "torch", "numpy"}


class Names:
    """Names the counterparts of a job and the objects they hold."""

    def __init__(self, counterparts: Counterparts) -> None:
        self._held = {id(content): (holder, name) for holder, name, content in _held(counterparts)}
        self._modules = {id(space.variables): space.module for space in counterparts.namespaces}
        self._packs = Packs()

    def of(self, obj: Any) -> str:
        """The name of an object by its holder, such as "`bank` of Patch.apply", with the holder's custom node pack."""
        label, owner = self._climb(obj)
        if owner is None:
            return f"`{label}`" if label else f"A {type(obj).__name__} on the model"
        definer = definer_of(owner)
        module = self._modules.get(id(owner)) or definer.__module__ or ""
        title = f"the module {module}" if id(owner) in self._modules else definer.__qualname__
        pack = self._packs.name_of(self._packs.root_of(module))
        return (f"`{label}` of {title}" if label else title) + (f" (custom node pack {pack})" if pack else "")

    def definer(self, obj: Any) -> Any:
        """The function or class that tells whose code an object is; for a torch module, that of its holder."""
        _, owner = self._climb(obj) if isinstance(obj, torch.nn.Module) else ("", obj)
        return definer_of(owner)

    def _climb(self, obj: Any) -> tuple[str, Any]:
        """(name in the holder, owner): climbs through holders to the first that is a module's or somebody's."""
        label, met = "", set()
        while id(obj) not in met:
            met.add(id(obj))
            if id(obj) in self._modules or _is_somebodys(obj):
                return label, obj
            obj, name = self._held.get(id(obj), (obj, ""))
            label = label or name
        return label, None


def definer_of(obj: Any) -> Any:
    """The function or class that tells whose code an object is: a function itself, a SAMPLER's, or the class."""
    if isinstance(obj, comfy.samplers.KSAMPLER) and isinstance(obj.sampler_function, FunctionType):
        return obj.sampler_function
    return obj if isinstance(obj, FunctionType) else type(obj)


def _is_somebodys(obj: Any) -> bool:
    return isinstance(obj, FunctionType) or type(obj).__module__.partition(".")[0] not in _NOBODYS


def _held(counterparts: Counterparts) -> Iterator[tuple[Any, str, Any]]:
    """Yields (holder, name in it, held value) for everything the counterparts hold; objects and functions come last."""
    for obj in (*(space.variables for space in counterparts.namespaces), *counterparts.objects):
        if isinstance(obj, dict):
            yield from ((obj, name if isinstance(name, str) else "", value) for name, value in obj.items())
        elif isinstance(obj, list | tuple):
            yield from ((obj, "", entry) for entry in obj)
    for obj in counterparts.objects:
        if isinstance(obj, FunctionType):
            for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or ()):
                with contextlib.suppress(ValueError):  # not assigned
                    yield obj, name, cell.cell_contents
        yield from ((obj, name, value) for name, value in getattr(obj, "__dict__", {}).items())
