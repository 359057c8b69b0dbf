"""The base classes of a plan's actions and of their handlers, and the registry of the handler for each action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..handler import ArgumentHandler, HookSite, ModuleHandler
from ..token_context import TokenContext


@dataclass(frozen=True)
class Action:
    """One thing that a plan does at the modules that `path` matches. Plain data; its handler does the work."""

    path: str


class ActionHandler(ModuleHandler):
    """Carries out one action at one site."""

    context: TokenContext

    def __init__(self, action: Action, site: HookSite, context: TokenContext) -> None:
        super().__init__(site, context)
        self.action = action


class ActionOnArgument(ActionHandler, ArgumentHandler):
    """Carries out an action that changes its argument `arg`."""

    @property
    def arg(self) -> str | int:
        """See `ArgumentHandler`."""
        return self.action.arg


HANDLERS: dict[type[Action], type[ActionHandler]] = {}
"""The handler of each action, by the action's type."""


def handles(action: type[Action]) -> Callable[[type[ActionHandler]], type[ActionHandler]]:
    """Registers a class as the handler of an action."""

    def register(handler: type[ActionHandler]) -> type[ActionHandler]:
        HANDLERS[action] = handler
        return handler

    return register
