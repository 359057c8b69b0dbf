"""The plan language: which tensors of a model are split over the ranks and where they are gathered.

A plan is data, a short table per model family; `shard.py` is its only reader. Paths are module names as in
named_modules(), where one part may be `*` (every child), `first` or `last` (of a ModuleList).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..attention.errors import Unsupported

__all__ = ["Action", "AttentionScope", "Gather", "Guard", "Plan", "Split", "SplitJoint", "Unsupported"]


@dataclass(frozen=True)
class Split:
    """Before `path` runs, its argument (by name, or by position where it has none) becomes the own tokens of `segment`.

    The full length along `dim` is recorded as the segment's length. The copy is owned: blocks add in place.
    """

    path: str
    arg: str | int
    segment: str
    dim: int = 1


@dataclass(frozen=True)
class SplitJoint:
    """Before `path` runs, its argument, which lies along `dim` like the joint sequence, becomes the own tokens of it.

    Each recorded segment is split on its own. None stays None. The copy is shared by all layers: read only.
    """

    path: str
    arg: str | int
    dim: int


@dataclass(frozen=True)
class AttentionScope:
    """Attention called inside `path` is over split tokens; its first call over the segments calls[0], and so on."""

    path: str
    calls: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Gather:
    """The output of `path` holds the own tokens of `segments` along `dim`; it becomes that of all ranks, alike on each.

    Gather behind the last layer that works on each token alone, where the channels are fewest.
    """

    path: str
    segments: tuple[str, ...]
    dim: int = 1


Action = Split | SplitJoint | AttentionScope | Gather


@dataclass(frozen=True)
class Guard:
    """Before `path` runs ("" is the model itself), `refuses` looks at its arguments by name; True refuses the job.

    `reason` completes the sentence "Flux cannot be split over ranks with ...". All ranks see the same arguments.
    """

    path: str
    refuses: Callable[[Mapping[str, Any]], bool]
    reason: str


@dataclass(frozen=True)
class Plan:
    """How one model family is split: `joint` names the segments of its sequence in the order the model joins them.

    `models` are the classes it is right for, as "module.Class"; a subclass may do something else and is not included.
    """

    family: str
    models: tuple[str, ...]
    joint: tuple[str, ...]
    actions: tuple[Action, ...]
    guards: tuple[Guard, ...] = ()

    def refuse(self, what: str) -> Unsupported:
        """The error that says what of this family cannot be split, and which setting avoids it."""
        return Unsupported(
            f"{self.family} cannot be split over ranks with {what}; "
            "set ulysses_degree and ring_degree to 1 (cfg_degree still works)."
        )
