"""The plan language: a table per model family says which tensors are split over the ranks and where they are gathered.

A plan is data; `token_sharding.py` is its only reader. Paths are module names as in named_modules(). One component may
be `*` (every child), `first` or `last` (of a ModuleList); a child that really has that name takes precedence. "Local" is what
this rank holds: its shard of a tensor, or its shard's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..attention.errors import Unsupported
from .family import Family, Guard
from .local_shard import LocalShard
from .parameters import Passed

__all__ = [
    "Action",
    "AttentionScope",
    "Blocks",
    "ControlResiduals",
    "DivideHeads",
    "DivideSequences",
    "DivideTokens",
    "Gather",
    "Guard",
    "Halo",
    "KeyMask",
    "LocalArgument",
    "Passed",
    "Plan",
    "Replicate",
    "Split",
    "SplitJoint",
    "Unsplit",
    "Unsupported",
]


@dataclass(frozen=True)
class Split:
    """Before `path` runs, replaces its argument with the local shard of `segment`.

    The argument is given by name, or by position where it has no name. The full length along `dim` is recorded as the
    length of the segment. The shard is a copy, because blocks add in place.
    `grid`: the tokens lie on a grid of so many dimensions from `dim` on. They are flattened along the first, the others
    become 1; Gather restores the grid.
    `until`: the argument that says how many tokens count; those after them are dropped.
    `item`: the argument is a tuple, and this item of it holds the tokens.
    `front`: returns, from the arguments of the model and of the module, the number of prefix tokens in front of the
    segment. Every rank keeps the whole prefix.
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
    """Before `path` runs, replaces its argument, which lies along `dim` like the joint sequence, with the local shard.

    Each segment is split on its own. None stays None. The copy is shared by all layers: read only.
    """

    path: str
    arg: str | int
    dim: int


@dataclass(frozen=True)
class LocalArgument:
    """Before `path` runs, its argument becomes local(argument, own): the part that the local tokens of `segments` need.

    For arguments that hold positions or one entry per frame, or that are no plain tensor. An argument that is None or
    not given stays so. The result is shared by all layers: read only. `outside`: the module is outside the blocks, so
    nothing is cut where the model holds all tokens there.
    """

    path: str
    arg: str | int
    segments: tuple[str, ...]
    local: Callable[[Any, LocalShard], Any]
    outside: bool = False


@dataclass(frozen=True)
class KeyMask:
    """Before `path` runs, takes an additive key mask (B, tokens of `segment`) out of its arguments.

    Attention inside gets the mask of the whole joint sequence instead, with the other segments not masked. Without a
    `segment` the mask already is that of the joint sequence, in any shape attention takes.
    """

    path: str
    arg: str | int
    segment: str | None = None


@dataclass(frozen=True)
class ControlResiduals:
    """Before `path` runs, cuts the ControlNet outputs for `segment` (ComfyUI's argument `control`) to the local tokens.

    Each is cut when the model asks for it, which it does after the split.
    """

    path: str
    arg: str | int
    segment: str
    dim: int = 1


@dataclass(frozen=True)
class Unsplit:
    """Where `when` is true of the arguments of `path`, by name, it runs unsplit: every rank has all its tokens."""

    path: str
    when: Callable[[Callable[[str], Any]], bool]


@dataclass(frozen=True)
class AttentionScope:
    """Attention called inside `path` is over split tokens: the first call over the segments calls[0], and so on.

    `caller`: the model calls ComfyUI's attention without transformer_options, so optimized_attention is patched in this
    Python module, which imports it.
    `mask`: replaces a mask that the module makes for its local tokens with mask(module, its mask, number of all
    tokens), the mask of the whole sequence.
    `front`: there may be more keys than queries; the first ones belong to a prefix that every rank has. Calls that see
    no other keys run unchanged and are not counted.
    `skipped_with`: where this transformer option is set, the module works on each token alone and does not attend.
    """

    path: str
    calls: tuple[tuple[str, ...], ...]
    caller: str | None = None
    mask: Callable[[Any, Tensor, int], Tensor] | None = None
    front: bool = False
    skipped_with: str = ""

    def skips(self, options: Mapping[str, Any] | None) -> bool:
        """Whether the module does not attend with these transformer_options."""
        return bool(self.skipped_with and options and options.get(self.skipped_with))


@dataclass(frozen=True)
class DivideSequences:
    """Variable-length attention within many sequences: every rank has all tokens and computes some of the sequences.

    `path` is "", the model. Patches `function` of the Python `module`; see `share_sequences` for how it is called.
    """

    path: str
    module: str
    function: str


@dataclass(frozen=True)
class DivideHeads:
    """Attention by heads: every rank has all tokens and computes a chunk of the heads.

    `path` is "", the model. Patches `function` of the Python `module`, called like ComfyUI's attention; see
    `share_heads`.
    """

    path: str
    module: str
    function: str


@dataclass(frozen=True)
class DivideTokens:
    """`path` works on each token alone, and every rank has all tokens: each computes a shard of the argument's tokens.

    The output is gathered, so that every rank has all tokens again.
    """

    path: str
    arg: str | int


@dataclass(frozen=True)
class Replicate:
    """`path` mixes tokens by position, so it is replicated: its argument, local tokens of `segment`, is gathered first.

    Its output is cut to the local tokens, unless it has no tokens of that segment (`cut` False). For few and cheap
    modules: every rank does all of the work. `outside`: the module is outside the blocks, so nothing is done where the
    model holds all tokens there. `item`: the output is a tuple, and this item of it holds the tokens.
    """

    path: str
    arg: str | int
    segment: str
    cut: bool = True
    outside: bool = False
    item: int | None = None


@dataclass(frozen=True)
class Halo:
    """`path` mixes neighbouring tokens, like a convolution of kernel 3, so it needs a halo.

    Its argument, local tokens of `segment`, gets the next token on either side; its output is cut to the local tokens.
    """

    path: str
    arg: str | int
    segment: str


@dataclass(frozen=True)
class Gather:
    """The output of `path` holds the local tokens of `segments` along `dim`; it is gathered, the same on every rank.

    Gather after the last layer that works on each token alone, where the channels are fewest. `behind`: segments whose
    local tokens may lie in front of the gathered ones; they are kept, not gathered. `item`: the output is a tuple, and
    this item of it holds the tokens.
    """

    path: str
    segments: tuple[str, ...]
    dim: int = 1
    behind: tuple[str, ...] = ()
    item: int | None = None


Action = (
    Split
    | SplitJoint
    | LocalArgument
    | KeyMask
    | ControlResiduals
    | Unsplit
    | AttentionScope
    | DivideSequences
    | DivideHeads
    | DivideTokens
    | Replicate
    | Halo
    | Gather
)


@dataclass(frozen=True)
class Blocks:
    """The blocks at `path` and every tensor of tokens they change: (argument, segments, place in the output or None).

    Where a patch looks at the tokens between the blocks, it gets all of them: the input of each block is then split and
    the output gathered, instead of the plan's Split and Gather, and the model adds control to all tokens. `front` and
    `grid` are as in Split.
    """

    path: str
    tokens: tuple[tuple[str | int, tuple[str, ...], int | None], ...]
    dim: int = 1
    grid: int = 1
    front: Callable[[Mapping[str, Any], Callable[[str], Any]], int] | None = None


@dataclass(frozen=True)
class Plan(Family):
    """How one model family is split: `joint` names the segments of its sequence in the order the model joins them.

    With `blocks`, patches may look at the tokens between the blocks, and a block that a workflow changes runs on all
    tokens. Without, nothing may look at the tokens there, which a guard must see to, and a workflow may put no code of
    its own into the model. `whole_with`: arguments with which the model itself counts all tokens between its blocks, so
    it is given them.
    """

    joint: tuple[str, ...]
    actions: tuple[Action, ...]
    blocks: tuple[Blocks, ...] = ()
    whole_with: tuple[str, ...] = ()
