"""The base of handlers: the work that is done at one module of a model, by hooks on its forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from .module_arguments import argument, replaced

Given = Callable[[str], Any]
"""Returns an argument of the running forward by its name, None where it was not given."""
Changed = tuple[tuple[Any, ...], dict[str, Any]] | None
"""The arguments, by position and by name, that a module runs with instead; None leaves them as they are."""


@dataclass(frozen=True)
class HookSite:
    """A module of the model: its `path`, and the `positions` of the named arguments of its forward."""

    path: str
    module: nn.Module
    positions: Mapping[str, int]


class ModuleHandler:
    """Works at one site of a model. A subclass overrides one of the two hooks, or both.

    `context` is what all handlers of a model share. State that only one handler uses is its own.
    """

    always = False
    """Whether `post_hook` also runs after a forward that raised."""

    def __init__(self, site: HookSite, context: Any) -> None:
        self.site, self.context = site, context

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """Runs before the module, and may change its arguments."""

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Runs after the module. Returns its new output, None to leave it as it is."""

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        """Looks up arguments of a forward of the module."""
        return partial(argument, positions=self.site.positions, args=args, kwargs=kwargs)

    def with_argument(
        self, name: str | int, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with another value for one that was given."""
        return replaced(name, self.site.positions, args, kwargs, value)


class ArgumentHandler(ModuleHandler, ABC):
    """Changes one argument of the module: `arg`, by name, or by position where it has no name."""

    arg: str | int

    @abstractmethod
    def change(self, value: Any, given: Given) -> Any:
        """The value that the module gets instead; `value` itself to leave it."""

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """See `ModuleHandler.pre_hook`."""
        given = self.given(args, kwargs)
        value = given(self.arg)
        changed = self.change(value, given)
        return None if changed is value else self.with_argument(self.arg, changed, args, kwargs)
