"""The base of all plans: the models that a family covers, the guards that refuse inputs, and the errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..attention.unsupported import Unsupported
from .library import COMFYUI, Library
from .parameters import Passed


@dataclass(frozen=True)
class Guard:
    """Looks at the model's arguments, by name, before it runs: where `refuses` is true, the forward is not split.

    `reason` completes the sentence "Flux cannot be split over ranks with ..."; `refuses` may return a text to use
    instead. All ranks see the same arguments; the model itself is among them as "self".
    """

    refuses: Callable[[Mapping[str, Any]], bool | str]
    reason: str = ""


@dataclass(frozen=True)
class Family:
    """A model family, by its name.

    `models`: the classes that the plan is right for, as "module.Class"; a subclass may behave differently and is not
    included. `passed`: arguments of the model's modules that the plan knows besides those it names. `library`: whose
    code these models run.
    """

    family: str
    models: tuple[str, ...]
    guards: tuple[Guard, ...] = field(default=(), kw_only=True)
    passed: tuple[Passed, ...] = field(default=(), kw_only=True)
    library: Library = field(default=COMFYUI, kw_only=True)

    def refuse(self, what: str) -> Unsupported:
        """The error for something that this family cannot be split with; it names the setting that avoids it."""
        return Unsupported(f"{self.not_with(what)}; {self.library.way_out}")

    def refuse_unfit(self, what: str) -> Unsupported:
        """The error for a model that is not as the plan knows it; it names the degrees that do without the plan."""
        return Unsupported(f"{self.not_with(what)}; {self.library.other_degrees}")

    def refuse_unseen_attention(self) -> Unsupported:
        """The error for attention that the library's modules did not let us see."""
        seen = self.library.attention.format(self.library.installed)
        return self.refuse(f"an attention that does not go through {seen}")

    def refuse_unrun(self, part: str) -> Unsupported:
        """The error for a part of the model whose hooks did not fire."""
        return self.refuse(f"a patch, or a change in {self.library.installed}, that keeps its {part} from running")

    def not_with(self, what: str) -> str:
        """The sentence that this family cannot be split with `what`."""
        return f"{self.family} cannot be split over ranks with {what}"
