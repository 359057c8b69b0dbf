"""Which modules of a model no longer do what ComfyUI's code says: a workflow has put code of its own in their place.

Object patches and injections do that, and packs that set a forward. What acts by way of functions that no module holds
cannot be seen here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

_KNOWN = ("comfy", "torch", "einops")
# Layers that work on each token alone. Loaders of other packs bring their own, which hold weights in other ways.
_OF_EACH_TOKEN = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)


def changed_modules(root: nn.Module) -> Iterator[str]:
    """Their paths. A compiled module does what it did before, and one with a hook more than that."""
    for path, module in root.named_modules():
        if isinstance(module, OptimizedModule):
            continue
        hooked = module._forward_hooks or module._forward_pre_hooks
        if hooked or _of_another(type(module)) or _replaced(module):
            yield path


def holds(path: str, inner: str) -> bool:
    """Whether the module at `path` is the one at `inner` or has it inside."""
    return path == inner or inner.startswith(f"{path}.")


def _of_another(kind: type) -> bool:
    return not (_from_known_package(kind) or issubclass(kind, _OF_EACH_TOKEN) or _holds_weights_otherwise(kind))


def _holds_weights_otherwise(kind: type) -> bool:
    """Whether it is a layer of a loader that does what ComfyUI's does, as GGUF has them."""
    return _is_known(kind.forward) and any(base.__module__ == "comfy.ops" for base in kind.__mro__)


def _replaced(module: nn.Module) -> bool:
    """Whether the module, or its class, has other functions than the class was written with."""
    kind = type(module)
    if _class_replaced(kind):
        return True
    own = (
        (value, getattr(kind, name)) for name, value in vars(module).items() if callable(value) and hasattr(kind, name)
    )
    return any(not _is_known(value) and _is_other(value, before) for value, before in own)


def _class_replaced(kind: type) -> bool:
    functions = (
        getattr(value, "__func__", value)
        for base in kind.__mro__
        if _from_known_package(base)
        for value in vars(base).values()
    )
    return any(isinstance(function, FunctionType) and not _is_known(function) for function in functions)


def _from_known_package(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _KNOWN


def _is_known(function: Callable[..., Any]) -> bool:
    code = _code(function)
    return code is not None and _in_known_package(code.co_filename)


def _is_other(function: Callable[..., Any], before: Callable[..., Any]) -> bool:
    return _code(function) is None or _code(function) is not _code(before)


def _code(function: Callable[..., Any]) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)


@lru_cache(maxsize=4096)
def _in_known_package(filename: str) -> bool:
    if filename.startswith("<"):  # made by Python itself, such as what dataclasses add
        return True
    folders = [folder for name in _KNOWN if name in sys.modules for folder in sys.modules[name].__path__]
    return any(Path(filename).is_relative_to(folder) for folder in folders)
