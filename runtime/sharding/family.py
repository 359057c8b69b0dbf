"""What the plans of all model families have in common: whom they are for, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..attention.errors import OTHER_DEGREES, WAY_OUT, Unsupported
from ..comfy.version import installed
from .parameters import Passed


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
    included. `passed`: the arguments of its modules that the plan knows besides those that it names.
    """

    family: str
    models: tuple[str, ...]
    guards: tuple[Guard, ...] = field(default=(), kw_only=True)
    passed: tuple[Passed, ...] = field(default=(), kw_only=True)

    def refuse(self, what: str) -> Unsupported:
        """The error that says what of this family cannot be split, and which setting avoids it."""
        return Unsupported(f"{self.not_with(what)}; {WAY_OUT}")

    def refuse_unfit(self, what: str) -> Unsupported:
        """The error that says what of the model is not as the plan knows it, and which degrees do without the plan."""
        return Unsupported(f"{self.not_with(what)}; {OTHER_DEGREES}")

    def refuse_unseen_attention(self) -> Unsupported:
        """The error for attention that ComfyUI does not call our override for."""
        return self.refuse(f"an attention that does not go through the attention functions of {installed()}")

    def refuse_unrun(self, part: str) -> Unsupported:
        """The error for a part of the model whose hooks did not fire."""
        return self.refuse(f"a patch, or a change in {installed()}, that keeps its {part} from running")

    def not_with(self, what: str) -> str:
        """That says what of this family cannot be split."""
        return f"{self.family} cannot be split over ranks with {what}"
