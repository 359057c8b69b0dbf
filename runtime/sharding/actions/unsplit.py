"""Lets a module run without any splitting in calls where its arguments show that every rank has all its tokens.

Nothing is gathered for it, unlike in replicate.py. For blocks that a workflow has changed see `ModifiedBlockHandler`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..handler import Given
from .action import Action, ActionHandler, handles


@dataclass(frozen=True)
class Unsplit(Action):
    """Where `when` is true of the arguments of `path`, by name, it runs unsplit: every rank has all its tokens."""

    when: Callable[[Given], bool]


@handles(Unsplit)
class UnsplitHandler(ActionHandler):
    """Keeps all other hooks of the module, and of those inside it, from working."""

    action: Unsplit

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `ModuleHandler.pre_hook`."""
        self.context.call.module_unsplit = self.action.when(self.given(args, kwargs))

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """See `ModuleHandler.post_hook`."""
        self.context.call.module_unsplit = False
