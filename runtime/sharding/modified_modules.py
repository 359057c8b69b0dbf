"""Finds the modules of a model that no longer run their library's code, because a workflow has replaced it.

Object patches and injections do that, and custom nodes that set a forward. A change made through functions that no
module holds cannot be seen here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import CodeType, FunctionType
from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from .library import COMFYUI
from .origin import is_class_of, is_function_of

Packages = tuple[str, ...]
"""The Python packages whose code counts as the library's: `Library.packages`."""

# Layers that work on each token alone. Loaders of other packs bring subclasses that hold weights in other ways.
_OF_EACH_TOKEN = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)

HARMLESS = ((nn.Module, "smart_apply"),)
"""Functions that others give to torch's classes: transformers adds this one when it loads a model."""


def modified_modules(root: nn.Module, known: Packages = COMFYUI.packages) -> Iterator[str]:
    """Yields their paths. A compiled module counts as unchanged, one with forward hooks as changed."""
    is_changed = cache(partial(_is_changed, known))  # classes do not change during the search
    for path, module in root.named_modules():
        if isinstance(module, OptimizedModule):
            continue
        hooked = module._forward_hooks or module._forward_pre_hooks
        if hooked or is_changed(type(module)) or _has_other_functions(known, module):
            yield path


def holds(path: str, inner: str) -> bool:
    """Whether the module at `path` is the one at `inner` or contains it."""
    return path == inner or inner.startswith(f"{path}.")


def _is_changed(known: Packages, kind: type) -> bool:
    """Whether a class is not of `known` or a kind of layer that is, or has functions it was not written with."""
    return _of_another(known, kind) or not all(is_function_of(known, each) for each in _functions_of(known, kind))


def _of_another(known: Packages, kind: type) -> bool:
    of_each_token = issubclass(kind, _OF_EACH_TOKEN)
    return not (is_class_of(known, kind) or of_each_token or _holds_weights_otherwise(known, kind))


def _holds_weights_otherwise(known: Packages, kind: type) -> bool:
    """Whether it is a loader's layer that computes what ComfyUI's does but stores weights otherwise, as GGUF's."""
    bases = (base for base in kind.__mro__ if base.__module__ == "comfy.ops")
    return is_function_of(known, kind.forward) and any(is_class_of(known, base) for base in bases)


def _functions_of(known: Packages, kind: type) -> Iterator[FunctionType]:
    """The functions that a class has from classes of the known packages."""
    bases = (base for base in kind.__mro__ if is_class_of(known, base))
    named = ((name, value) for base in bases for name, value in vars(base).items() if (base, name) not in HARMLESS)
    functions = (getattr(value, "__func__", value) for _, value in named)
    return (function for function in functions if isinstance(function, FunctionType))


def _has_other_functions(known: Packages, module: nn.Module) -> bool:
    """Whether the module instance overrides functions of its class."""
    kind = type(module)
    own = (
        (value, getattr(kind, name)) for name, value in vars(module).items() if callable(value) and hasattr(kind, name)
    )
    return any(not is_function_of(known, value) and _is_other(value, before) for value, before in own)


def _is_other(function: Callable[..., Any], before: Callable[..., Any]) -> bool:
    return _code(function) is None or _code(function) is not _code(before)


def _code(function: Callable[..., Any]) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)
