"""Recognises the attention overrides of ComfyUI's own nodes (0.35) and applies them to split attention."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from .origin import homes_of, is_extra

Override = Callable[..., Tensor]
_SPARSE = "nodes_sparse_attention"


def is_sparse(override: Override | None) -> bool:
    """Whether this is Model Sparse Attention, which attends to all keys where there are fewer queries than keys."""
    return override is not None and any(
        home is not None and is_extra(home) and home.__name__.endswith(_SPARSE) for home in homes_of(override)
    )


def applied(override: Override, func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """ComfyUI's attention function `func` with `override` in front of it.

    Model Attention Backend only picks another function for all attention. The result then is a plain function with that
    name, which may be called for some heads at a time, unlike an override that may depend on what it sees.
    """
    call = partial(override, func)
    if not hasattr(override, "container_function") or not all(home and is_extra(home) for home in homes_of(override)):
        return call

    def backend(*args: Any, **kwargs: Any) -> Tensor:
        return call(*args, **kwargs)

    backend.__name__ = _name_of_backend(override)
    return backend


def _name_of_backend(override: Override) -> str:
    """The name of the attention function in the override's closure."""
    held = inspect.getclosurevars(override).nonlocals.values() if inspect.isfunction(override) else ()
    names = [getattr(value, "__name__", "") for value in held]
    return next((name for name in names if name.startswith("attention")), "another attention function")
