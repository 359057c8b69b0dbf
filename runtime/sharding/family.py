"""What the plans of all model families have in common: whom they are for, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..attention.errors import Unsupported


@dataclass(frozen=True)
class Guard:
    """Before `path` runs ("" is the model itself), `refuses` looks at its arguments by name; True refuses the job.

    `reason` completes the sentence "Flux cannot be split over ranks with ...", or what `refuses` returns, where that
    says more. All ranks see the same arguments; the module itself is among them as "self".
    """

    path: str
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

    def refuse(self, what: str) -> Unsupported:
        """The error that says what of this family cannot be split, and which setting avoids it."""
        return Unsupported(
            f"{self.family} cannot be split over ranks with {what}; "
            "set ulysses_degree and ring_degree to 1 (cfg_degree still works)."
        )
