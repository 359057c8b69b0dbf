"""The plan language: which tensors of a model are split over the ranks and where they are gathered.

A plan is data, a short table per model family; `shard.py` is its only reader. Paths are module names as in
named_modules(), where one part may be `*` (every child), `first` or `last` (of a ModuleList; a child of that name comes
before).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..attention.errors import Unsupported
from .family import Family, Guard
from .own import Own
from .parameters import Passed

__all__ = [
    "Action",
    "AsIs",
    "AttentionScope",
    "Blocks",
    "Gather",
    "Guard",
    "Heads",
    "KeyMask",
    "Localise",
    "Neighbours",
    "Passed",
    "Plan",
    "Residuals",
    "Sequences",
    "Shared",
    "Split",
    "SplitJoint",
    "Unsupported",
    "Whole",
]


@dataclass(frozen=True)
class Split:
    """Before `path` runs, its argument (by name, or by position where it has none) becomes the own tokens of `segment`.

    The full length along `dim` is recorded as the segment's length. The copy is owned: blocks add in place.
    Tokens that lie on a grid of several dimensions from `dim` on are numbered along the first, the others become 1;
    Gather brings the grid back. Of an argument that is a tuple the tokens are its `item`. Of tokens that only count up
    to a number, the argument `until`, the others are dropped. As many tokens as `front` says, by the arguments of the
    model and of the module, lie in front of the segment and stay on every rank.
    """

    path: str
    arg: str | int
    segment: str
    dim: int = 1
    grid: int = 1
    until: str | None = None
    item: int | None = None
    front: Callable[[Mapping[str, Any], Callable[[str], Any]], int] | None = None


@dataclass(frozen=True)
class SplitJoint:
    """Before `path` runs, its argument, which lies along `dim` like the joint sequence, becomes the own tokens of it.

    Each recorded segment is split on its own. None stays None. The copy is shared by all layers: read only.
    """

    path: str
    arg: str | int
    dim: int


@dataclass(frozen=True)
class Localise:
    """Before `path` runs, its argument becomes local(argument, own): what the own tokens of `segments` need of it.

    For what speaks of positions, or of each frame, or is no plain tensor. None or not given stays so. The result is
    shared by all layers: read only. `outside` the blocks nothing is cut where the model holds all tokens there.
    """

    path: str
    arg: str | int
    segments: tuple[str, ...]
    local: Callable[[Any, Own], Any]
    outside: bool = False


@dataclass(frozen=True)
class KeyMask:
    """Before `path` runs, its argument, an additive mask (B, tokens of `segment`) of keys, is taken away from it.

    Attention inside is given it instead, for the whole joint sequence, of which the other segments are not masked.
    Without a `segment` the mask is that of the joint sequence, in any shape attention takes.
    """

    path: str
    arg: str | int
    segment: str | None = None


@dataclass(frozen=True)
class Residuals:
    """Before `path` runs, what its argument (ComfyUI's `control`) adds to `segment` is cut to the own tokens.

    They are cut when the model asks for them, which it does behind the split.
    """

    path: str
    arg: str | int
    segment: str
    dim: int = 1


@dataclass(frozen=True)
class AsIs:
    """Where `when` is true of the arguments of `path`, by name, it runs as it is: all its tokens are on every rank."""

    path: str
    when: Callable[[Callable[[str], Any]], bool]


@dataclass(frozen=True)
class AttentionScope:
    """Attention called inside `path` is over split tokens; its first call over the segments calls[0], and so on.

    A model that calls ComfyUI's attention without transformer_options does so from the Python module `caller`. A mask
    the module makes for its own tokens is replaced by mask(module, its mask, all tokens), that of the whole sequence.
    With `front` there may be more keys than queries: the first ones are those of tokens that every rank has. Calls that
    see no others run as they are, and are not counted.
    Where the transformer option `skipped_with` is set, the module works on each token alone and does not attend.
    """

    path: str
    calls: tuple[tuple[str, ...], ...]
    caller: str | None = None
    mask: Callable[[Any, Tensor, int], Tensor] | None = None
    front: bool = False
    skipped_with: str = ""

    def skips(self, options: Mapping[str, Any] | None) -> bool:
        """Whether the module does not attend where these are the transformer_options."""
        return bool(self.skipped_with and options and options.get(self.skipped_with))


@dataclass(frozen=True)
class Sequences:
    """The model (`path` "") attends to many sequences, of which each rank holds all tokens: each computes some of them.

    It does so by `function` of the Python `module`; see `share_sequences` for how it is called.
    """

    path: str
    module: str
    function: str


@dataclass(frozen=True)
class Heads:
    """Attention of the model (`path` ""), which holds all tokens on each rank: each computes some of the heads.

    It is `function` of the Python `module`, called like ComfyUI's attention; see `share_heads`.
    """

    path: str
    module: str
    function: str


@dataclass(frozen=True)
class Shared:
    """`path` works on each token alone, where each rank holds all of them: each computes its share of the argument's.

    Its output is made that of all tokens again.
    """

    path: str
    arg: str | int


@dataclass(frozen=True)
class Whole:
    """`path` looks at positions: its argument, own tokens of `segment`, becomes those of all ranks, alike on each.

    Its output is then cut to the own tokens again, unless it has no tokens of that segment (`cut`). For few and cheap
    modules: every rank does all of the work. `outside` the blocks nothing is done where the model holds all tokens. Of
    an output that is a tuple the tokens are its `item`.
    """

    path: str
    arg: str | int
    segment: str
    cut: bool = True
    outside: bool = False
    item: int | None = None


@dataclass(frozen=True)
class Neighbours:
    """`path` mixes neighbouring tokens, as a convolution of kernel 3 does: its argument, own tokens of `segment`, is
    given the next token on either side, and its output is cut to the own tokens again.
    """

    path: str
    arg: str | int
    segment: str


@dataclass(frozen=True)
class Gather:
    """The output of `path` holds the own tokens of `segments` along `dim`; it becomes that of all ranks, alike on each.

    Gather behind the last layer that works on each token alone, where the channels are fewest. Own tokens of the
    segments named in `behind` may lie in front of them; they are kept as they are, not gathered. Of an output that is a
    tuple the tokens are its `item`.
    """

    path: str
    segments: tuple[str, ...]
    dim: int = 1
    behind: tuple[str, ...] = ()
    item: int | None = None


Action = (
    Split
    | SplitJoint
    | Localise
    | KeyMask
    | Residuals
    | AsIs
    | AttentionScope
    | Sequences
    | Heads
    | Shared
    | Whole
    | Neighbours
    | Gather
)


@dataclass(frozen=True)
class Blocks:
    """The blocks at `path`: (argument, segments, place in the output or None) of every tensor of tokens they change.

    Where a patch between the blocks sees the tokens, it is given all of them: the blocks are then split before and
    gathered behind each one, instead of the plan's Split and Gather, and the model adds residuals to all tokens.
    `front` and `grid` are as in Split.
    """

    path: str
    tokens: tuple[tuple[str | int, tuple[str, ...], int | None], ...]
    dim: int = 1
    grid: int = 1
    front: Callable[[Mapping[str, Any], Callable[[str], Any]], int] | None = None


@dataclass(frozen=True)
class Plan(Family):
    """How one model family is split: `joint` names the segments of its sequence in the order the model joins them.

    Without `blocks`, nothing may look at the tokens between the blocks, which a guard must see to, and a workflow may
    put no code of its own into the model: with them, a block that it changes runs on all tokens. With one of the
    model's arguments `whole_with` the model itself counts all tokens there, and is given them.
    """

    joint: tuple[str, ...]
    actions: tuple[Action, ...]
    blocks: tuple[Blocks, ...] = ()
    whole_with: tuple[str, ...] = ()
