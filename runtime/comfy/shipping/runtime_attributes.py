"""Recognises attributes that ComfyUI's memory management sets on a model's modules while they are on a device.

Each process sets its own, so they do not travel. They are not listed here, as newer ComfyUIs have more: they are the
attributes that ComfyUI's memory management code sets on other objects and that the module's own class does not set.
"""

from __future__ import annotations

import dis
import importlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType

from torch import nn

_MANAGEMENT = (
    "comfy.memory_management",
    "comfy.model_management",
    "comfy.model_patcher",
    "comfy.model_prefetch",
    "comfy.pinned_memory",
)
# Beginnings of names that are composed at run time, or that layers set on themselves while they run.
_BEGINNINGS = ("_v", "_pin", "_prefetch", "_comfy_")
_ENDS = ("_lowvram_function",)
# Empty lists left on modules that were on a device once; their classes have the same default.
MAY_BE_EMPTY = ("bias_function", "weight_function")
# The patcher that is running a model at present.
PATCHER = "current_patcher"


def is_of_this_process(kind: type[nn.Module], name: str) -> bool:
    """Whether the attribute `name` of a module of class `kind` comes from holding the module on a device."""
    if name == PATCHER or hasattr(kind, name) or name in _own_names(kind):
        return False
    return name.startswith(_BEGINNINGS) or name.endswith(_ENDS) or name in _given_names()


def is_of_memory_management(kind: type[nn.Module], name: str) -> bool:
    """Whether each process sets this attribute on the modules it runs, or sets it to a value of its own."""
    return name == PATCHER or name in MAY_BE_EMPTY or is_of_this_process(kind, name)


@cache
def _given_names() -> frozenset[str]:
    """The attributes that memory management code sets on objects other than `self` and `cls`."""
    codes = (code for name in _MANAGEMENT if importlib.util.find_spec(name) for code in _codes(_code_of(name)))
    return frozenset(name for code in codes for name, owner in _stores(code) if owner not in ("self", "cls"))


@cache
def _own_names(kind: type) -> frozenset[str]:
    """The attributes that the functions of a class set on `self`."""
    bases = (base for base in kind.__mro__ if base is not nn.Module)
    functions = (getattr(value, "__func__", value) for base in bases for value in vars(base).values())
    codes = (code for function in functions if isinstance(function, FunctionType) for code in _codes(function.__code__))
    return frozenset(name for code in codes for name, owner in _stores(code) if owner == "self")


def _code_of(module: str) -> CodeType:
    return importlib.import_module(module).__spec__.loader.get_code(module)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yields a code object and those of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _stores(code: CodeType) -> Iterator[tuple[str, str]]:
    """Yields (attribute, name of the variable whose attribute it is) for every attribute assignment."""
    before = ""
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_ATTR", "DELETE_ATTR"):
            yield step.argval, before
        if step.opname != "CACHE":
            before = step.argval if step.opname.startswith("LOAD_FAST") else ""
