"""The facets of an object (items, attributes, values ...): how each is read, compared and written in another process.

A facet is one way in which an object can change. An object may have several: an instance of a subclass of `list` has
items and attributes.
"""

from __future__ import annotations

import contextlib
import copyreg
import enum
import pickle
import random
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import comfy.hooks
import numpy as np
import torch

from ...pool.tensor_hash import glance
from ..describe.code_owners import is_of_this_pack
from .runtime_attributes import is_of_memory_management

# Types that cannot change, or (keyframes) that ComfyUI resets before every run. Cells change with their functions.
_CONSTANT = (
    bool, bytes, complex, enum.Enum, float, frozenset, int, PurePath, range, slice, str, tuple, type, type(None),
    uuid.UUID, BuiltinFunctionType, CellType, CodeType, MethodType, ModuleType,
    torch.device, torch.dtype, torch.Size, comfy.hooks.HookKeyframeGroup,
)  # fmt: skip
# Types compared by value, not by identity.
_VALUES = (
    bool, bytes, complex, enum.Enum, float, frozenset, int, PurePath, str, type(None), uuid.UUID, MethodType,
    torch.device, torch.dtype,
)  # fmt: skip


class CannotReturn(ValueError):
    """Something has changed in a way that cannot be repeated on the same object in another process."""


class Entries(NamedTuple):
    """The changes of a dict or of an object's attributes: names to remove, then values to set."""

    removed: list[Any]
    new: dict[Any, Any]

    def only(self, wanted: Callable[[Any], bool]) -> Entries:
        """Only the entries whose names are wanted."""
        new = {name: value for name, value in self.new.items() if wanted(name)}
        return Entries([name for name in self.removed if wanted(name)], new)


class Facet(NamedTuple):
    """`read` returns the present content, in which nested objects are compared by identity; `write` sets it elsewhere.

    The content of a tensor is only a digest, which shows that it has changed; `values` then returns what to write.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    values: Callable[[Any], Any] | None = None


def can_change(obj: Any) -> bool:
    """Whether a run may change the content of an object."""
    return not isinstance(obj, _CONSTANT)


def stays_in_the_worker(obj: Any) -> bool:
    """Whether an object is this pack's and belongs to one run: a call's options hold such, and a patch may keep them.

    False for classes and functions at the top level of this pack's modules, and for Entries, which carry changes.
    """
    of_a_module = isinstance(obj, type) or (isinstance(obj, FunctionType) and "<locals>" not in obj.__qualname__)
    return not of_a_module and not isinstance(obj, Entries) and is_of_this_pack(obj)


def read(obj: Any) -> dict[str, Any]:
    """Returns {facet name: present content} of an object."""
    return {name: FACETS[name].read(obj) for name in _facets_of(obj)}


def differences(obj: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of `obj` since `before` (see `read`), for `write`; empty if there are none. Raises CannotReturn."""
    found = {}
    for name, now in read(obj).items():
        if isinstance(now, dict):
            if entries := _entries(before[name], now):
                found[name] = entries
        elif not _same(before[name], now):
            values = FACETS[name].values
            found[name] = now if values is None else values(obj, before[name], now)
    return found


def write(obj: Any, changes: Mapping[str, Any]) -> None:
    """Apply the changes that `differences` found to the object's counterpart in another process."""
    for name, content in changes.items():
        FACETS[name].write(obj, content)


def _same(one: Any, other: Any) -> bool:
    """Whether `one` and `other` are the same. A tensor only moved to the device or dtype of a call stays the same."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return _is_moved(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, _VALUES) and one == other


def _is_moved(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.is_meta or other.is_meta or one.layout != other.layout:
        return False
    return torch.equal(one.to(other.device, other.dtype), other)


def _entries(before: dict, now: dict) -> Entries | None:
    kept = [key for key in before if key in now]
    if list(now)[: len(kept)] != kept:  # the order has changed: set everything anew
        return Entries(list(before), now)
    removed = [key for key in before if key not in now]
    new = {key: value for key, value in now.items() if key not in before or not _same(before[key], value)}
    return Entries(removed, new) if removed or new else None


def _facets_of(obj: Any) -> Iterator[str]:
    if isinstance(obj, torch.Tensor):
        yield "tensor"
    elif isinstance(obj, np.ndarray):
        yield "array"
    elif isinstance(obj, list | deque):
        yield "items"
    elif isinstance(obj, dict):
        yield "entries"
    elif isinstance(obj, set):
        yield "members"
    elif isinstance(obj, bytearray):
        yield "bytes"
    elif isinstance(obj, torch.Generator | random.Random | np.random.BitGenerator):
        yield "random state"
    elif isinstance(obj, Iterator) and not hasattr(obj, "__dict__") and not _slots(obj):
        yield "inside"
    if _slots(obj):
        yield "slots"
    if hasattr(obj, "__dict__") and not isinstance(obj, torch.Tensor):
        yield "attributes"
    if isinstance(obj, FunctionType):
        yield "defaults"
        yield "variables"


def _slots(obj: Any) -> list[str]:
    """The names of attributes in `__slots__`; none for built-in types."""
    return copyreg._slotnames(type(obj))


def _read_slots(obj: Any) -> dict[str, Any]:
    return {name: getattr(obj, name) for name in _slots(obj) if hasattr(obj, name)}


def _write_slots(obj: Any, entries: Entries) -> None:
    for name in entries.removed:
        delattr(obj, name)
    for name, value in entries.new.items():
        object.__setattr__(obj, name, value)


def _read_attributes(obj: Any) -> dict[str, Any]:
    """The attributes, without those that ComfyUI's memory management sets on modules."""
    hidden = partial(is_of_memory_management, type(obj)) if isinstance(obj, torch.nn.Module) else lambda name: False
    return {name: value for name, value in vars(obj).items() if not hidden(name)}


def _write_attributes(obj: Any, entries: Entries) -> None:
    _write_entries(vars(obj), entries)


def _read_entries(obj: dict) -> dict:
    return dict(_kind_of(obj).items(obj))


def _write_entries(obj: dict, entries: Entries) -> None:
    for key in entries.removed:
        _kind_of(obj).pop(obj, key, None)
    _kind_of(obj).update(obj, entries.new)


def _kind_of(obj: dict) -> type:
    """The class whose dict methods to use, in case the object's own class overrides them."""
    return OrderedDict if isinstance(obj, OrderedDict) else dict


def _write_items(obj: list | deque, items: tuple) -> None:
    if isinstance(obj, list):
        list.__setitem__(obj, slice(None), items)
    else:
        obj.clear()
        obj.extend(items)


def _write_members(obj: set, members: frozenset) -> None:
    set.intersection_update(obj, members)
    set.update(obj, members)


def _write_bytes(obj: bytearray, content: bytes) -> None:
    obj[:] = content


def _read_variables(function: FunctionType) -> dict[str, Any]:
    """{name: value} of the variables that a function closes over, if they are assigned."""
    contents = {}
    for name, cell in _cells(function).items():
        with contextlib.suppress(ValueError):
            contents[name] = cell.cell_contents
    return contents


def _write_variables(function: FunctionType, entries: Entries) -> None:
    cells = _cells(function)
    for name in entries.removed:
        del cells[name].cell_contents
    for name, value in entries.new.items():
        cells[name].cell_contents = value


def _cells(function: FunctionType) -> dict[str, CellType]:
    return dict(zip(function.__code__.co_freevars, function.__closure__ or ()))


def _read_defaults(function: FunctionType) -> tuple:
    return function.__defaults__, tuple((function.__kwdefaults__ or {}).items())


def _write_defaults(function: FunctionType, content: tuple) -> None:
    function.__defaults__, keywords = content
    function.__kwdefaults__ = dict(keywords) or None


def _read_tensor(tensor: torch.Tensor) -> tuple:
    return tuple(tensor.shape), tensor.dtype, *glance(tensor)


def _values_of_tensor(tensor: torch.Tensor, before: tuple, now: tuple) -> torch.Tensor:
    return tensor.detach()  # a new object, so that it travels by value


def _write_tensor(tensor: torch.Tensor, values: torch.Tensor) -> None:
    if (tensor.shape, tensor.dtype) != (values.shape, values.dtype):  # as `module.to(dtype)` does with parameters
        tensor.data = values
        return
    with torch.inference_mode():  # which allows writing to inference tensors too
        tensor.copy_(values)


def _read_array(array: np.ndarray) -> tuple:
    return array.shape, str(array.dtype), pickle.dumps(array) if array.dtype.hasobject else array.tobytes()


def _values_of_array(array: np.ndarray, before: tuple, now: tuple) -> np.ndarray:
    if before[:2] != now[:2]:
        raise CannotReturn(f"it had the shape and dtype {before[:2]} and now has {now[:2]}")
    return array.copy()


def _write_array(array: np.ndarray, values: np.ndarray) -> None:
    array[...] = values


def _read_random_state(generator: Any) -> bytes:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    return pickle.dumps(generator.getstate() if isinstance(generator, random.Random) else generator.state)


def _write_random_state(generator: Any, state: bytes) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(generator, random.Random):
        generator.setstate(pickle.loads(state))
    else:
        generator.state = pickle.loads(state)


def _read_inside(obj: Any) -> bytes:
    """The pickled state of an iterator, which hides its content; empty if it cannot be pickled."""
    with contextlib.suppress(Exception):  # it may hold what pickle refuses; its changes then go unnoticed
        return pickle.dumps(obj)
    return b""


def _cannot_write(obj: Any, content: Any) -> None:
    raise CannotReturn(f"what is inside of a {type(obj).__name__} can be seen but not set")


def _values_inside(obj: Any, before: Any, now: Any) -> Any:
    return _cannot_write(obj, now)


FACETS: dict[str, Facet] = {
    "tensor": Facet(_read_tensor, _write_tensor, _values_of_tensor),
    "array": Facet(_read_array, _write_array, _values_of_array),
    "items": Facet(tuple, _write_items),
    "entries": Facet(_read_entries, _write_entries),
    "members": Facet(frozenset, _write_members),
    "bytes": Facet(bytes, _write_bytes),
    "random state": Facet(_read_random_state, _write_random_state),
    "inside": Facet(_read_inside, _cannot_write, _values_inside),
    "slots": Facet(_read_slots, _write_slots),
    "attributes": Facet(_read_attributes, _write_attributes),
    "defaults": Facet(_read_defaults, _write_defaults),
    "variables": Facet(_read_variables, _write_variables),
}
