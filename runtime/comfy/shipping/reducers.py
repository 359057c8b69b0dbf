"""Reducers for objects that pickle and cloudpickle refuse or alter: nested functions, model configs, modules ..."""

from __future__ import annotations

from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
import comfy.supported_models_base
import torch
from comfy_api.internal import lock_class

from ...sharding.origin import home_of
from .import_finders import attribute
from .runtime_attributes import MAY_BE_EMPTY, PATCHER, is_of_memory_management, is_of_this_process


def reduction(obj: Any) -> tuple | None:
    """How to pickle `obj`, in the form `__reduce__` returns; None for objects that need no help."""
    if isinstance(obj, FunctionType):
        return _function(obj)
    if isinstance(obj, CellType):
        return _cell(obj)
    if _is_node_at_work(obj):
        return _node_at_work, (obj.__bases__[0],)
    if isinstance(obj, torch.Tensor):
        return _tensor(obj)
    if isinstance(obj, torch.nn.Module):
        return _module(obj)
    if isinstance(obj, comfy.supported_models_base.BASE):
        # It answers None to every name it does not know, and pickle asks for `__setstate__` and calls what it gets.
        return _new, (type(obj),), vars(obj), None, None, _update
    return None


def _function(function: FunctionType) -> tuple | None:
    """A nested function (or a lambda) of a module that the worker can import too; None for any other function.

    It gets the globals of the worker's module, and the variables it closes over stay shared with its siblings.
    Cloudpickle would copy both: a step counter that two patches share would become two.
    """
    module = home_of(function)
    if module is None or _by_value(module):
        return None
    if _importable(module, function):
        return None
    state = {
        "__defaults__": function.__defaults__,
        "__dict__": dict(vars(function)),
        "__kwdefaults__": function.__kwdefaults__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
    }
    arguments = (function.__code__, module, function.__name__, function.__closure__)
    return _make_function, arguments, state, None, None, _set_attributes


def _by_value(module: ModuleType) -> bool:
    """Whether cloudpickle is to send what this module defines, because the worker cannot import it."""
    names = cloudpickle.list_registry_pickle_by_value()
    parts = module.__name__.split(".")
    return module.__name__ == "__main__" or any(".".join(parts[: n + 1]) in names for n in range(len(parts)))


def _importable(module: ModuleType, function: FunctionType) -> bool:
    try:
        return attribute(module, function.__qualname__) is function
    except AttributeError:
        return False


def _make_function(code: CodeType, module: ModuleType, name: str, closure: tuple | None) -> FunctionType:
    return FunctionType(code, vars(module), name, None, closure)


def _set_attributes(function: FunctionType, state: dict) -> None:
    for name, value in state.items():
        setattr(function, name, value)


def _cell(cell: CellType) -> tuple:
    """A variable that functions close over. Its value is set after it is made, as it may be one of those functions."""
    try:
        return _make_cell, (), (cell.cell_contents,), None, None, _fill
    except ValueError:  # not assigned yet
        return _make_cell, ()


def _make_cell() -> CellType:
    return CellType()


def _fill(cell: CellType, contents: tuple) -> None:
    (cell.cell_contents,) = contents


def _is_node_at_work(obj: Any) -> bool:
    """Whether it is the locked copy of a node's class that ComfyUI's server makes for each run of the node."""
    return isinstance(obj, type) and (type(obj).__module__, type(obj).__name__) == (lock_class.__module__, "LockedMeta")


def _node_at_work(node: type) -> type:
    """Make such a copy as the server does. Hidden inputs (the prompt, the node's number) stay in the parent."""
    return lock_class(node.PREPARE_CLASS_CLONE(None))


def _tensor(tensor: torch.Tensor) -> tuple | None:
    """A tensor of a subclass: one with ordinary values, as GGUF's, or a wrapper subclass, as ComfyUI's quantised one.

    Its attributes travel with it; those of a wrapper are the tensors it is made of.
    """
    kind = type(tensor)
    if kind in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return None
    with torch._C.DisableTorchFunctionSubclass():
        if kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
            made = _as_subclass, (tensor.detach().as_subclass(torch.Tensor), kind)
        else:
            size, strides = tuple(tensor.size()), tuple(tensor.stride())
            about = (tensor.dtype, size, strides, tensor.storage_offset(), tensor.layout, tensor.device)
            made = torch._utils._rebuild_wrapper_subclass, (kind, *about, tensor.requires_grad)
    return *made, vars(tensor), None, None, _update


def _as_subclass(values: torch.Tensor, kind: type) -> torch.Tensor:
    return values.as_subclass(kind)


def _module(module: torch.nn.Module) -> tuple | None:
    """A module without the attributes it has from being held on a device."""
    kind = type(module)
    if not any(is_of_memory_management(kind, name) for name in vars(module)):
        return None
    make, arguments, state, *rest = module.__reduce_ex__(2)
    if not isinstance(state, dict):
        return None
    state = {name: value for name, value in state.items() if not is_of_this_process(kind, name)}
    state = {name: value for name, value in state.items() if name not in MAY_BE_EMPTY or value}
    return make, arguments, state | ({PATCHER: None} if PATCHER in state else {}), *rest


def _new(kind: type) -> Any:
    return kind.__new__(kind)


def _update(obj: Any, state: dict) -> None:
    vars(obj).update(state)
