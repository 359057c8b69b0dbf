"""What the plans of all model families have in common: whom they are for, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..attention.errors import WAY_OUT, Unsupported


@dataclass(frozen=True)
class Guard:
    """Before the model runs, `refuses` looks at its arguments by name; True refuses to split it.

    `reason` completes the sentence "Flux cannot be split over ranks with ...", or what `refuses` returns, where that
    says more. All ranks see the same arguments; the model itself is among them as "self".
    """

    refuses: Callable[[Mapping[str, Any]], bool | str]
    reason: str = ""


@dataclass(frozen=True)
class Family:
    """A model family by its name.

    `models` are the classes its plan is right for, as "module.Class"; a subclass may do something else and is not
    included.
    """

    family: str
    models: tuple[str, ...]
    guards: tuple[Guard, ...] = field(default=(), kw_only=True)

    def refuse(self, what: str) -> Unsupported:
        """The error that says what of this family cannot be split, and which setting avoids it."""
        return Unsupported(f"{self.not_with(what)}; {WAY_OUT}")

    def not_with(self, what: str) -> str:
        """That says what of this family cannot be split."""
        return f"{self.family} cannot be split over ranks with {what}"
