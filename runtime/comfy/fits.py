"""Checks whether the installed ComfyUI still has the seams this pack was written for, and what is lost if not."""

from __future__ import annotations

import dis
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from ..host import installed
from ..planner.capabilities import UPDATE
from ..sharding.modified_modules import HARMLESS
from .seam import Seam
from .seams import SEAMS


@dataclass(frozen=True)
class Misfit:
    """A seam that does not fit: its `name`, what `differs`, and the capabilities that are lost (`needed_for`)."""

    name: str
    differs: str
    needed_for: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The capabilities that are lost and why, without the way out."""
        lost = " and no ".join(self.needed_for)
        return f"{self.name} of {installed()} {self.differs}, without which ComfyUI-CompactParallel has no {lost}"

    @property
    def sentence(self) -> str:
        """The full sentence, for the log and for the report of a run."""
        return f"{self.reason}; {UPDATE}"


def check() -> list[Misfit]:
    """Every seam that does not fit.

    Modules of the package comfy are checked in any case: ComfyUI has imported them before it loads custom nodes, and a
    worker is about to. Other modules, such as the server's, must exist, and are checked if they are imported already.
    """
    return [
        Misfit(f"{seam.module}:{name}", differs, seam.needed_for)
        for seam in SEAMS
        for name in seam.names.split()
        if (differs := _differs(seam, name))
    ]


@cache
def misfits() -> tuple[Misfit, ...]:
    """The result of `check`, computed once."""
    return tuple(check())


def against(*capabilities: str) -> Misfit | None:
    """The first misfit that rules out any of these capabilities; None if there is none."""
    return next((misfit for misfit in misfits() if set(capabilities).intersection(misfit.needed_for)), None)


def lost() -> dict[str, str]:
    """{capability: why the installed ComfyUI does not allow it, without the way out}, for planner.capabilities."""
    return {kind: misfit.reason for misfit in reversed(misfits()) for kind in misfit.needed_for}


def _differs(seam: Seam, name: str) -> str:
    """How a name differs from what the table says; empty if it does not."""
    try:
        owner = _module(seam.module)
    except ImportError:
        return "is not there"
    if owner is None:
        return ""
    *outer, last = name.split(".")
    for each in outer:
        owner = getattr(owner, each, None)
    if not hasattr(owner, last):
        return "" if isinstance(owner, type) and _may_set(owner, last) else "is not there"
    if seam.takes is None or not _is_comfyui_s(getattr(owner, last), seam):
        return ""
    return _differs_in_parameters(seam, _parameters(owner, last))


def _module(name: str) -> ModuleType | None:
    """The module, imported if it is of comfy; None for another that exists but that nobody has imported yet."""
    if name in sys.modules or name.startswith("comfy."):
        return importlib.import_module(name)
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return None


def _may_set(kind: type, name: str) -> bool:
    """Whether a method of the class sets the attribute, or may: another pack's, which may call what it replaced."""
    return name in _set_by_methods(kind) or _has_foreign_methods(kind)


@cache
def _set_by_methods(kind: type) -> frozenset[str]:
    """The attributes that the methods of a class set, on itself or others."""
    functions = (getattr(value, "__func__", value) for base in kind.__mro__ for value in vars(base).values())
    codes = (function.__code__ for function in functions if isinstance(function, FunctionType))
    steps = (step for code in codes for step in dis.get_instructions(code))
    return frozenset(step.argval for step in steps if step.opname == "STORE_ATTR")


def _has_foreign_methods(kind: type) -> bool:
    named = ((base, each) for base in kind.__mro__ for name, each in vars(base).items() if (base, name) not in HARMLESS)
    homes = ((base.__module__, _root(each)) for base, each in named if callable(each))
    return any(root not in ("", home.partition(".")[0], *sys.stdlib_module_names) for home, root in homes)


def _is_comfyui_s(function: Any, seam: Seam) -> bool:
    """Whether the function is ComfyUI's. One that another pack put in its place may name its parameters as it likes."""
    made_by = function.__init__ if isinstance(function, type) else function
    return _root(made_by) == seam.module.partition(".")[0]


def _root(function: Any) -> str:
    """The package that the code of a function is in; empty where that cannot be seen."""
    function = getattr(function, "__func__", function)
    if isinstance(function, FunctionType):
        return function.__globals__.get("__name__", "").partition(".")[0]
    return (getattr(function, "__module__", None) or "").partition(".")[0]


def _parameters(owner: Any, name: str) -> list[inspect.Parameter]:
    """The parameters that callers of a function pass; for a class, those of its constructor."""
    function = getattr(owner, name)
    found = list(inspect.signature(function).parameters.values())
    return found[1:] if isinstance(owner, type) and isinstance(function, FunctionType) else found


def _differs_in_parameters(seam: Seam, found: list[inspect.Parameter]) -> str:
    """How the parameters differ from what the table passes; empty if they do not."""
    by_place, _, by_name = seam.takes.partition("*")
    places, names = by_place.replace(",", " ").split(), by_name.replace(",", " ").split()
    plain = {p.name: p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if missing := [name for name in (*places, *names) if name not in plain]:
        return f"does not take {' and '.join(missing)}"
    if list(plain)[: len(places)] != places:
        return f"takes {', '.join(plain)} in another order"
    more = [name for name in plain if name not in (*places, *names)]
    more = [name for name in more if seam.replaced or plain[name].default is inspect.Parameter.empty]
    return f"also takes {' and '.join(more)}" if more else ""
