"""The pickler for everything a workflow puts on a model: closures, modules, tensors and other models.

Objects that must not travel by value are written as a persistent id:
- a tensor: its bytes if small, else its key in the shared store;
- a ModelPatcher: a number; its recipe and delta are written separately (see patcher.py), so that a closure on a
  patcher may hold that same patcher;
- a module (or config, or latent format) that belongs to such a patcher's model: the patcher's number and a dotted path;
- a device other than the CPU: the worker's own device takes its place;
- a class or function from a file whose path has a dot, which `import` cannot find: the path and the name;
- ComfyUI's server: the worker's own, which never starts, takes its place;
- a `Local` object, which belongs to the parent only, such as the pool: a number; a pass-through takes its place.
Objects that pickle cannot send by value without help are in reducers.py. Objects that may change in the workers are
noted (see counterparts.py), and the last piece lists them: so each side has a list of its own objects in the same
order, for a few bytes each.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from types import CellType, FunctionType, ModuleType
from typing import Any

import cloudpickle
import comfy.model_patcher
import comfy.utils
import torch

from ...pool.store import INLINE_BYTES, Store
from .at_rest import put_at_rest
from .counterparts import Changeable, Counterparts
from .custom_nodes import Namespace, Packs
from .facets import can_change
from .import_finders import PathModules, attribute, under_dotted_path
from .reducers import reduction


class ShippingError(ValueError):
    """Something on the model cannot be sent to the workers; the message names it."""


class Local:
    """Base of objects that stay in the parent. If one is a wrapper, a worker's stand-in passes the call through."""


class PassThrough:
    """A worker's stand-in for a `Local`: as a wrapper it does nothing."""

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped function."""
        return executor(*args, **kwargs)


_EMPTY = CellType()
# Most objects of a module are of these types, and none needs a persistent id.
_CONSTANTS = {bool, bytes, complex, float, frozenset, int, str, tuple, type(None)}
_CONTAINERS = {bytearray, dict, list, set}


def own_parts(patcher: comfy.model_patcher.ModelPatcher) -> dict[int, str]:
    """{id: dotted path} of every part of a patcher's model, which a worker's own copy of the model has too."""
    model = patcher.model
    parts = {id(module): path for path, module in model.named_modules(remove_duplicate=False)}
    for name in ("model_config", "latent_format"):
        if hasattr(model, name):
            parts[id(getattr(model, name))] = name
    replaced = patcher.object_patches_backup.items()
    parts.update({id(old): path for path, old in replaced if isinstance(old, torch.nn.Module)})
    # An applied object patch takes the place of a part of the model, but is no part of it.
    for patch in patcher.object_patches.values():
        parts.pop(id(patch), None)
    return parts


class JobPickler(cloudpickle.Pickler):
    """Pickles a job piece by piece into one stream, so that pieces may share objects and an error names its piece.

    Hooks, for instance, are shared by identity between the conditioning and the patcher.
    """

    def __init__(self, store: Store) -> None:
        self._stream = io.BytesIO()
        super().__init__(self._stream)
        self.tensor_keys: set[str] = set()
        self.patchers: list[comfy.model_patcher.ModelPatcher] = []
        self.packs = Packs()
        self._store = store
        self._parts: dict[int, tuple[int, str]] = {}
        self._tensors: dict[int, tuple[int, torch.Tensor]] = {}
        self._local: list[Local] = []
        self._seen = Changeable()
        self._roots: dict[str, str | None] = {}
        self._of_packs: list[tuple[Any, str]] = []

    def write(self, value: Any, what: str) -> None:
        """Add one piece. Raises ShippingError naming `what` when it holds something that cannot travel."""
        try:
            self.dump(value)
        except (TypeError, pickle.PicklingError, AttributeError, ValueError, RuntimeError) as error:
            if isinstance(error, ShippingError):
                raise
            pack = self._culprit()
            by = f" (custom node pack {pack})" if pack else ""
            raise ShippingError(
                f"{what}{by} cannot be sent to the workers: {error}. Bypass the node that puts it there, or set "
                'on_unsupported of Parallel Model to "run on one device".'
            ) from error

    def stream(self) -> bytes:
        """All pieces so far, as bytes."""
        return self._stream.getvalue()

    def roots(self) -> set[str]:
        """The packs whose code the pieces so far refer to; see custom_nodes.py."""
        return {root for _, root in self._of_packs}

    def leave_out(self, objects: Iterator[Any]) -> None:
        """Exclude these objects from those whose changes in the workers are reported."""
        self._seen.leave_out(objects)

    def end(self, guider: Any, namespaces: list[Namespace]) -> Counterparts:
        """Write the last piece. Returns this side's Counterparts; `JobUnpickler.end` returns the other side's."""
        objects = self._seen.objects()
        self.write(objects, "What may change in a run")
        tensors = dict(self._tensors.values())
        return Counterparts((guider, *objects), tensors, namespaces, self.patchers, self._local)

    def persistent_id(self, obj: Any) -> tuple | None:
        """Called by pickle for every object; None lets it travel by value."""
        if type(obj) in _CONSTANTS:
            return None
        if type(obj) in _CONTAINERS:
            self._seen.add(obj)
            return None
        if isinstance(obj, torch.Tensor):
            return self._tensor_id(obj)
        if isinstance(obj, comfy.model_patcher.ModelPatcher):
            return ("patcher", self.patcher_number(obj))
        if isinstance(obj, torch.device) and obj.type != "cpu":
            return ("device",)
        if isinstance(obj, Local):
            return ("local", self._number_of(obj))
        if _is_server(obj):
            return ("server",)
        self._note(obj)
        if place := under_dotted_path(obj):
            return ("global", *place)
        self._register_patchers_of(obj)
        part = self._parts.get(id(obj))
        return None if part is None else ("part", *part)

    def reducer_override(self, obj: Any) -> Any:
        """Called by pickle for objects that travel by value, and for functions and classes that travel by name."""
        reduced = reduction(obj)
        if reduced is None:
            reduced = super().reducer_override(obj)
        if can_change(obj) and not (isinstance(obj, FunctionType) and reduced is NotImplemented):
            self._seen.add(obj)
        return reduced

    def patcher_number(self, patcher: comfy.model_patcher.ModelPatcher) -> int:
        """The patcher's number in this job, given on first use. A model without a recipe is first put at rest."""
        for number, known in enumerate(self.patchers):
            if known is patcher:
                return number
        if patcher.cached_patcher_init is None:
            put_at_rest(patcher)
        return self.add_patcher(patcher)

    def add_patcher(self, patcher: comfy.model_patcher.ModelPatcher) -> int:
        """Give the patcher the next number; from now on the parts of its model are written as persistent ids."""
        number = len(self.patchers)
        self.patchers.append(patcher)
        for key, path in own_parts(patcher).items():
            self._parts.setdefault(key, (number, path))
        return number

    def _number_of(self, local: Local) -> int:
        if all(local is not known for known in self._local):
            self._local.append(local)
        return next(number for number, known in enumerate(self._local) if known is local)

    def _register_patchers_of(self, obj: Any) -> None:
        """Number the patchers that an object holds, before its contents are pickled.

        An object with a patcher (a ControlNet, a VAE) may also hold the patcher's module, which may be pickled first.
        """
        if isinstance(obj, FunctionType):
            held = [cell.cell_contents for cell in obj.__closure__ or () if cell != _EMPTY]
        else:
            held = () if isinstance(obj, (type, ModuleType)) else getattr(obj, "__dict__", {}).values()
        for value in held:
            if isinstance(value, comfy.model_patcher.ModelPatcher):
                self.patcher_number(value)

    def _note(self, obj: Any) -> None:
        """Note an object whose code is a pack's."""
        if isinstance(obj, FunctionType):  # its __module__ is another's if it has another's name (functools.wraps)
            name = obj.__globals__.get("__name__")
        elif isinstance(obj, ModuleType):
            name = obj.__name__
        else:
            name = (obj if isinstance(obj, type) else type(obj)).__module__
        if name not in self._roots:
            self._roots[name] = self.packs.root_of(name)
        if root := self._roots[name]:
            self._of_packs.append((obj, root))

    def _culprit(self) -> str | None:
        """After a failure: the pack of the last noted object that cannot be pickled by itself."""
        for obj, root in reversed(self._of_packs):
            if (name := self.packs.name_of(root)) and not self._travels(obj):
                return name
        return None

    def _travels(self, obj: Any) -> bool:
        alone = JobPickler(self._store)
        alone.patchers, alone._parts = list(self.patchers), dict(self._parts)
        try:
            alone.dump(obj)
        except Exception:  # `write` reports the error itself
            return False
        return True

    def _tensor_id(self, tensor: torch.Tensor) -> tuple | None:
        """The persistent id of a tensor; None for subclasses, other layouts and complex ones, which travel by value."""
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            return None
        if tensor.is_complex():  # safetensors does not support all complex dtypes
            return None
        # The pair keeps it alive, so that no other tensor gets its id during this job.
        token, _ = self._tensors.setdefault(id(tensor), (len(self._tensors), tensor))
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        if tensor.is_meta:
            return ("meta", (token, is_parameter, tensor.requires_grad, False), tensor.dtype, tuple(tensor.shape))
        flags = (token, is_parameter, tensor.requires_grad, tensor.device.type != "cpu")
        if tensor.numel() * tensor.element_size() <= INLINE_BYTES:
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return ("tensor", flags, data, tensor.dtype, tuple(tensor.shape))
        key = self._store.put(tensor)
        self.tensor_keys.add(key)
        return ("stored", flags, key)


def _is_server(obj: Any) -> bool:
    server = sys.modules.get("server")
    return server is not None and obj is getattr(getattr(server, "PromptServer", None), "instance", None)


class JobUnpickler(pickle.Unpickler):
    """The inverse of JobPickler: reads the pieces in the order they were written.

    `patchers` are the worker's own, in the order of their numbers; `modules` loads modules that are named by a file
    path.
    """

    def __init__(
        self,
        stream: bytes,
        patchers: list[comfy.model_patcher.ModelPatcher],
        store: Store,
        device: torch.device,
        modules: PathModules,
    ) -> None:
        super().__init__(io.BytesIO(stream))
        self._modules = modules
        self._patchers = patchers
        self._store = store
        self._device = device
        self._tensors: dict[int, torch.Tensor] = {}
        self._local: list[PassThrough] = []

    def read(self) -> Any:
        """The next piece."""
        return self.load()

    def end(self, guider: Any, namespaces: list[Namespace]) -> Counterparts:
        """Read the last piece. Returns this process's Counterparts."""
        objects = self.read()
        return Counterparts((guider, *objects), self._tensors, namespaces, self._patchers, self._local)

    def persistent_load(self, pid: tuple) -> Any:
        """The object behind a persistent id."""
        match pid:
            case ("tensor", flags, data, dtype, shape):
                return self._tensor(flags, lambda: _from_bytes(data, dtype, shape))
            case ("stored", flags, key):
                return self._tensor(flags, lambda: self._store.get(key))
            case ("meta", flags, dtype, shape):
                return self._tensor(flags, lambda: torch.empty(shape, dtype=dtype, device="meta"))
            case ("patcher", number):
                return self._patchers[number]
            case ("part", number, path):
                return _part_of(self._patchers[number], path)
            case ("device",):
                return self._device
            case ("global", module, qualified_name):
                return attribute(self._modules.load(module), qualified_name)
            case ("server",):
                return importlib.import_module("server").PromptServer.instance
            case ("local", number):
                self._local += (PassThrough() for _ in range(len(self._local), number + 1))
                return self._local[number]
        raise pickle.UnpicklingError(f"unknown persistent id {pid[0]!r}")

    def _tensor(self, flags: tuple, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor with a token; made once, however many references there are."""
        token, is_parameter, requires_grad, on_device = flags
        if token not in self._tensors:
            with torch.inference_mode(False):  # torch counts writes only to normal tensors
                tensor = make()
                if on_device:
                    tensor = tensor.to(self._device)
                self._tensors[token] = torch.nn.Parameter(tensor, requires_grad) if is_parameter else tensor
        return self._tensors[token]


def _from_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return (torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)).reshape(shape)


def _part_of(patcher: comfy.model_patcher.ModelPatcher, path: str) -> Any:
    """The model's own part at a dotted path ("" is the model), even while an object patch is applied in its place."""
    if path in patcher.object_patches_backup:
        return patcher.object_patches_backup[path]
    return comfy.utils.get_attr(patcher.model, path) if path else patcher.model
