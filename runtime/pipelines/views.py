"""Views of a pipeline's components: objects that share all state with a component but have some other methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")


def view_of(component: T, **methods: Callable[..., Any]) -> T:
    """A view of `component`: attributes read or set on it are the component's own.

    `methods`: by name, each called as method(original, *args, **kwargs), where `original` is the component's own
    method, bound to the view. They keep the signatures of the originals. The view is an instance of the component's
    class (of a subclass of the same name), so that a pipeline's isinstance checks hold. The component is not changed.
    """
    kind = type(component)
    replaced = {name: _method(getattr(kind, name), method) for name, method in methods.items()}
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    view = object.__new__(type(kind.__name__, (kind,), {**named, **replaced}))
    object.__setattr__(view, "__dict__", vars(component))
    return view


def _method(original: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(original.__get__(self), *args, **kwargs)

    return call
