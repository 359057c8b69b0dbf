"""The attention function that a checkpoint prefers: newer ComfyUI (0.32) uses it unless attention is overridden.

A module ComfyAttention without parameters holds it. Our hook on attention is itself an override, so ComfyUI drops the
preference before it calls us: we look it up again in the module that is running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

_NAME = "ComfyAttention"


def taken(x: Any) -> Any:
    """Takes a tensor out of the container that newer ComfyUI hands over; returns anything else as it is."""
    return x.take() if not isinstance(x, Tensor) and hasattr(x, "take") else x


def is_preference(module: nn.Module) -> bool:
    """Whether the module computes nothing and only holds the preferred attention function."""
    return type(module).__name__ == _NAME and not list(module.parameters()) and not list(module.children())


class Preferences:
    """The preferences in a model, and which module is running: the innermost one with a preference inside."""

    def __init__(self, module: nn.Module) -> None:
        preferring = [each for each in module.modules() if is_preference(each)]
        self.any = any(each.function is not None for each in preferring)
        self._running: list[nn.Module] = []

    def holders(self, module: nn.Module) -> list[nn.Module]:
        """The modules to hook with `enter` and `leave`; none where nothing is preferred."""
        if not self.any:
            return []
        return [each for each in module.modules() if not is_preference(each) and self._functions(each)]

    def enter(self, module: nn.Module, *_: Any) -> None:
        """The forward pre-hook."""
        self._running.append(module)

    def leave(self, module: nn.Module, *_: Any) -> None:
        """The forward hook; register it with always_call."""
        while self._running and self._running.pop() is not module:
            pass

    def function(self) -> Callable[..., Tensor] | None:
        """The function that the running module prefers, or None. Raises ValueError if its preferences differ."""
        functions = self._functions(self._running[-1]) if self._running else set()
        if len(functions) > 1:
            raise ValueError("several attention functions of a checkpoint in one module")
        return next(iter(functions), None)

    @staticmethod
    def _functions(module: nn.Module) -> set[Callable[..., Tensor] | None]:
        return {each.function for each in module.modules() if is_preference(each)}
