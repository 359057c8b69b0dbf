"""A simulated CUDA card: CPU tensors that say they are on cuda:0, refuse to meet others, and are counted.

It works on torch's Python level (__torch_function__): C++ sees CPU tensors, so no driver is asked. It shows where
tensors of two devices meet, where the host waits for the device, how many operations are launched, and how much memory
the tensors hold. It cannot show races between streams, NCCL itself, or speed.

    with SimulatedCard() as card:
        x = card.put(torch.ones(3))
        x.sum().item()
    card.waits  # Counter({("item", "runtime/…:12"): 1})

Messages between ranks travel as with NCCL: the device waits for them, not the host.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from card_functions import CROSSES, LAUNCHES_NOTHING, WAITS
from card_kernels import KERNELS, TAKES
from card_objects import Event, Generator, Nothing
from card_shared_memory import SharedMemory
from mapped_files import mapped_from_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
_plain = torch._C.DisableTorchFunctionSubclass


class Mismatch(RuntimeError):
    """Tensors of two devices met."""


class CardTensor(Tensor):
    """A tensor of the simulated card."""

    card: SimulatedCard

    @property
    def device(self) -> torch.device:
        return self.card.device

    @property
    def is_cuda(self) -> bool:
        return True

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with _plain():
            return cls.card.call(func, args, dict(kwargs or {}))


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with _plain():
            return CardTensor.card.call(func, args, dict(kwargs or {}))


class SimulatedCard:
    """The card of this process while the context is active. `limit`: its memory in bytes, which it shares with other
    processes by `shared`: this process is number `process` of `SharedMemory`.

    ComfyUI, if it is there, takes it for its device; then modules move to the card and back as with a real one.

    waits: {(function, place): times the host waited}. launches: {(function, place): operations on the card}. copied:
    bytes by "H2D" and "D2H". peak: the most bytes that its tensors held.
    """

    def __init__(
        self, limit: int = 1 << 40, index: int = 0, shared: SharedMemory | None = None, process: int = 0
    ) -> None:
        self.limit = limit
        self.device = torch.device("cuda", index)
        self._shared, self._process = shared, process
        self.waits: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[tuple[str, str]] = Counter()
        self.copied: Counter[str] = Counter()
        self.held = self.peak = 0
        """Bytes of this process, and the most of them."""
        self.pinned: dict[int, int] = {}
        """Bytes of the host's memory that are pinned, by address."""
        self._holders: Counter[int] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> SimulatedCard:
        CardTensor.card = self
        for name, function in self._of_torch_cuda().items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, function, create=True))
        self._stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        for name, takes in TAKES.items():
            self._stack.enter_context(mock.patch.object(torch.backends.cuda, name, takes))
        self._stack.enter_context(mock.patch.object(dist, "get_backend", lambda group=None: "nccl"))
        self._stack.enter_context(mock.patch.object(dist, "batch_isend_irecv", _exchange))
        self._stack.enter_context(mock.patch.object(dist, "P2POp", lambda op, x, peer, group: (op, x, peer, group)))
        if "triton.runtime.interpreter" in sys.modules:
            self._stack.enter_context(self._interpreted_kernels(sys.modules["triton.runtime.interpreter"]))
        # Modules get new parameters when they move: a plain tensor cannot become one of the card.
        self._stack.callback(
            torch.__future__.set_overwrite_module_params_on_conversion,
            torch.__future__.get_overwrite_module_params_on_conversion(),
        )
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        if management := sys.modules.get("comfy.model_management"):
            for name, value in self._of_comfyui(management).items():
                self._stack.enter_context(mock.patch.object(management, name, value))
        self._stack.enter_context(_Mode())
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def reset(self) -> None:
        """Start counting anew."""
        self.waits.clear()
        self.launches.clear()
        self.copied.clear()
        self.peak = self.held

    def put(self, value: Any) -> Any:
        """Modules (in place), and tensors in nested lists and dicts, on the card."""
        if isinstance(value, torch.nn.Module):
            for module in value.modules():
                for group in (module._parameters, module._buffers):
                    for name, x in group.items():
                        if x is not None and not isinstance(x, CardTensor):
                            on_card = self._wrap(x.detach())
                            group[name] = torch.nn.Parameter(on_card, False) if group is module._parameters else on_card
            return value
        if isinstance(value, Tensor):
            return self._wrap(value)
        if isinstance(value, dict):
            return type(value)((name, self.put(part)) for name, part in value.items())
        if isinstance(value, list | tuple):
            return type(value)(self.put(part) for part in value)
        return value

    def take(self, value: Any) -> Any:
        """The plain CPU tensors behind those of the card; nothing is counted."""
        return pytree.tree_map(_raw, value)

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """A function of torch, called with tensors of the card or asked for one."""
        name = getattr(func, "__name__", str(func))
        flat, spec = pytree.tree_flatten((args, kwargs))
        ours = [x for x in flat if isinstance(x, CardTensor)]
        if ours:
            self._look(name, ours, flat)
        plain_args, plain_kwargs = pytree.tree_unflatten([_raw(x) for x in flat], spec)
        if name in ("__getitem__", "__setitem__"):
            self._look_at_index(name, args)
        if name == "copy_":
            self._crossing("copy_", _on_card(args[0]), args[1], plain_kwargs, plain_args[2:])
        if name == "pin_memory":
            return args[0]
        if name in ("to", "cpu", "cuda", "type_as"):
            return self._moved(func, name, args, kwargs, plain_args, plain_kwargs)
        on_card = bool(ours)
        if "device" in kwargs and kwargs["device"] is not None:
            on_card = _device(kwargs["device"]).type == "cuda"
            plain_kwargs["device"] = CPU
            if on_card and name in ("tensor", "as_tensor"):
                self._wait(f"{name} H2D")
            elif on_card and not ours and name not in LAUNCHES_NOTHING:
                self.launches[name, _place()] += 1
        plain_kwargs.pop("pin_memory", None)
        out = KERNELS.get(name, func)(*plain_args, **plain_kwargs)
        if name == "data_ptr" or not on_card:
            return self._same_objects(out, flat)
        return pytree.tree_map(lambda x: self._wrap(x) if isinstance(x, Tensor) else x, self._same_objects(out, flat))

    def _same_objects(self, out: Any, flat: list) -> Any:
        """Results that are arguments, as of operations in place, are those very objects."""
        known = {id(_raw_of(x)): x for x in flat if isinstance(x, CardTensor)}
        return pytree.tree_map(lambda x: known.get(id(x), x) if isinstance(x, Tensor) else x, out)

    def _look(self, name: str, ours: list, flat: list) -> None:
        others = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, CardTensor) and x.ndim > 0]
        if others and name not in CROSSES:
            shapes = [tuple(x.shape) for x in others]
            raise Mismatch(f"{name} of a tensor on the card met one on the CPU, {shapes}, at {_place()}")
        if name in ("numpy", "__array__"):
            raise Mismatch(f"{name} of a tensor on the card at {_place()}")
        if name in WAITS or (name == "repeat_interleave" and sum(isinstance(x, Tensor) for x in flat) > 1):
            self._wait(name)
        elif name not in LAUNCHES_NOTHING:
            self.launches[name, _place()] += 1

    def _look_at_index(self, name: str, args: tuple) -> None:
        keys = args[1] if isinstance(args[1], tuple) else (args[1],)
        tensors = [key for key in keys if isinstance(key, Tensor)]
        if not _on_card(args[0]):
            if any(_on_card(key) for key in tensors):
                raise Mismatch(f"a tensor on the CPU indexed by one on the card at {_place()}")
            return
        if any(key.dtype == torch.bool for key in tensors):
            self._wait("index by mask")
        if any(not _on_card(key) and key.ndim for key in tensors) or any(isinstance(key, list) for key in keys):
            self._wait("index from the host")
        if name == "__setitem__":
            self.launches[name, _place()] += 1
            if isinstance(args[2], Tensor) and args[2].ndim and not _on_card(args[2]):
                self._wait("setitem H2D")

    def _moved(self, func: Callable, name: str, args: tuple, kwargs: dict, plain: tuple, plain_kwargs: dict) -> Any:
        target = _on_card(args[0]) if name not in ("cpu", "cuda") else name == "cuda"
        for given in (*args[1:], *kwargs.values()) if name in ("to", "type_as") else ():
            if isinstance(given, Tensor):
                target = _on_card(given)
            elif isinstance(given, torch.device | str):
                target = _device(given).type == "cuda"
        if name == "cuda":
            out = plain[0]
        else:
            plain = tuple(CPU if isinstance(x, torch.device | str) else x for x in plain)
            out = func(*plain, **{key: CPU if key == "device" else x for key, x in plain_kwargs.items()})
        if target != _on_card(args[0]):
            self._crossing(name, target, args[0], plain_kwargs, ())
            if out.data_ptr() == plain[0].data_ptr():
                out = out.clone()  # a copy, as between devices
        elif out is plain[0]:
            return args[0]
        return self._wrap(out) if target else out

    def _crossing(self, name: str, to_card: bool, source: Tensor, kwargs: dict, more: tuple) -> None:
        """Count a copy, if it is one between host and card."""
        if to_card != _on_card(source):
            way = "H2D" if to_card else "D2H"
            self.copied[way] += source.numel() * source.element_size()
            if not (kwargs.get("non_blocking") or any(more)):
                self._wait(f"{name} {way}")

    def _wait(self, what: str) -> None:
        self.waits[what, _place()] += 1

    def _wrap(self, x: Tensor) -> CardTensor:
        if isinstance(x, CardTensor):
            return x
        storage = x.untyped_storage()
        key, nbytes = storage.data_ptr(), storage.nbytes()
        if key and not self._holders[key]:
            if nbytes > self.free:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {nbytes} bytes; {self.free} are free."
                )
            self._hold(nbytes)
            self.peak = max(self.peak, self.held)
        self._holders[key] += 1
        wrapped = x.as_subclass(CardTensor)
        weakref.finalize(wrapped, self._dropped, key, nbytes).atexit = False
        return wrapped

    def _dropped(self, key: int, nbytes: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._hold(-nbytes if key else 0)

    @property
    def free(self) -> int:
        """Bytes of its memory that no process holds."""
        return self.limit - self.held - (self._shared.of_others(self._process) if self._shared else 0)

    def _hold(self, nbytes: int) -> None:
        self.held += nbytes
        if self._shared:
            self._shared.hold(self._process, self.held)

    def _pin(self, address: int, nbytes: int, _flags: int) -> int:
        """Pins memory of the host; refuses what is mapped from a file."""
        if mapped_from_file(address):
            return 1
        self.pinned[address] = nbytes
        return 0

    def _unpin(self, address: int) -> int:
        return 0 if self.pinned.pop(address, None) else 1

    def _of_comfyui(self, management: Any) -> dict[str, Any]:
        """What ComfyUI finds out when it is imported: here as on a card of NVIDIA, but with less for inference."""
        return {
            "cpu_state": management.CPUState.GPU,
            "vram_state": management.VRAMState.NORMAL_VRAM,
            "MIN_WEIGHT_MEMORY_RATIO": 0.0,
            "get_torch_device": lambda: self.device,
            "minimum_inference_memory": lambda: management.extra_reserved_memory() + (4 << 20),
            "EXTRA_RESERVED_VRAM": 2 << 20,
            "pytorch_attention_flash_attention": lambda: True,
        }

    def _interpreted_kernels(self, interpreter: Any) -> contextlib.AbstractContextManager:
        """Lets Triton's interpreter run kernels on tensors of the card, each a launch."""
        run = interpreter.GridExecutor.__call__

        def call(executor: Any, *args: Any, **kwargs: Any) -> None:
            self.launches[executor.fn.__name__, _place()] += 1
            with _plain(), torch.overrides._pop_mode_temporarily():
                run(executor, *map(_raw, args), **{name: _raw(x) for name, x in kwargs.items()})

        return mock.patch.object(interpreter.GridExecutor, "__call__", call)

    def _of_torch_cuda(self) -> dict[str, Callable]:
        return {
            "_lazy_init": lambda: None,
            "synchronize": lambda device=None: self._wait("synchronize"),
            "current_stream": lambda device=None: _Stream(self),
            "Event": partial(Event, self),
            "get_rng_state": lambda device=None: torch.get_rng_state(),
            "set_rng_state": lambda state, device=None: None,
            "device": Nothing,
            "is_available": lambda: True,
            "is_bf16_supported": lambda *given: True,
            "current_device": lambda: self.device.index,
            "device_count": lambda: self.device.index + 1,
            "get_device_properties": lambda device=None: SimpleNamespace(
                name="simulated", major=9, minor=0, total_memory=self.limit, is_integrated=0
            ),
            "cudart": lambda: SimpleNamespace(cudaHostRegister=self._pin, cudaHostUnregister=self._unpin),
            "ipc_collect": lambda: None,
            "empty_cache": lambda: None,
            "mem_get_info": lambda device=None: (self.free, self.limit),
            "memory_reserved": lambda device=None: self.held,
            "memory_stats": lambda device=None: {
                "active_bytes.all.current": self.held,
                "reserved_bytes.all.current": self.held,
            },
        }


class _Stream:
    def __init__(self, card: SimulatedCard) -> None:
        self._card = card

    def synchronize(self) -> None:
        """The host waits for all that is queued."""
        self._card._wait("synchronize")


def _exchange(operations: list[tuple]) -> list:
    """What NCCL does with a batch of sends and receives; here the tensors' memory travels by gloo."""
    return [op(_raw(x), peer, group=group) for op, x, peer, group in operations]


def _on_card(x: Any) -> bool:
    return isinstance(x, CardTensor)


def _device(given: Any) -> torch.device:
    return CUDA if type(given) is int else torch.device(given)


def _raw_of(x: CardTensor) -> Tensor:
    """The plain tensor of a tensor on the card, the same object each time."""
    plain = x.__dict__.get("_plain")
    if plain is None:
        plain = x.__dict__["_plain"] = x.as_subclass(Tensor)
    return plain


def _raw(x: Any) -> Any:
    with _plain():
        return _raw_of(x) if isinstance(x, CardTensor) else x


def _place() -> str:
    """The innermost line of this pack or of ComfyUI that runs."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        for mark in ("/runtime/", "/comfy/") if "/site-packages/" not in name else ():
            if mark in name:
                return f"{mark.strip('/')}/{name.rpartition(mark)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
