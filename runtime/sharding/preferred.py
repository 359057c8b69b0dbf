"""The attention function that a checkpoint prefers for a module: newer ComfyUI (0.32) uses it unless it is overridden.

A parameterless module ComfyAttention holds it. As our own override is one, ComfyUI drops the preference before it asks
us: it is looked up again in the module that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

_NAME = "ComfyAttention"


def taken(x: Any) -> Any:
    """The tensor itself, of one that newer ComfyUI hands over in a container; anything else as it is."""
    return x.take() if not isinstance(x, Tensor) and hasattr(x, "take") else x


def is_preference(module: nn.Module) -> bool:
    """Whether the module computes nothing and only says which attention function is preferred."""
    return type(module).__name__ == _NAME and not list(module.parameters()) and not list(module.children())


class Preferences:
    """The preferences in a model, and the module that runs: the innermost one that has some in it."""

    def __init__(self, module: nn.Module) -> None:
        preferring = [each for each in module.modules() if is_preference(each)]
        self.any = any(each.function is not None for each in preferring)
        self._running: list[nn.Module] = []

    def holders(self, module: nn.Module) -> list[nn.Module]:
        """The modules to be told of with `enter` and `leave`; none where nothing is preferred."""
        if not self.any:
            return []
        return [each for each in module.modules() if not is_preference(each) and self._functions(each)]

    def enter(self, module: nn.Module, *_: Any) -> None:
        """A forward pre-hook."""
        self._running.append(module)

    def leave(self, module: nn.Module, *_: Any) -> None:
        """A forward hook that is always called."""
        while self._running and self._running.pop() is not module:
            pass

    def function(self) -> Callable[..., Tensor] | None:
        """What the module that runs prefers; None for no preference. Raises ValueError where that is not one thing."""
        functions = self._functions(self._running[-1]) if self._running else set()
        if len(functions) > 1:
            raise ValueError("several attention functions of a checkpoint in one module")
        return next(iter(functions), None)

    @staticmethod
    def _functions(module: nn.Module) -> set[Callable[..., Tensor] | None]:
        return {each.function for each in module.modules() if is_preference(each)}
