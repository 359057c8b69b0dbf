"""The state of the running call of a model whose tokens are split, which the handlers of its plan share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from .message_names import MessageNames

if TYPE_CHECKING:
    from .actions.attention_scope import AttentionScopeHandler
    from .hooks import Slots
    from .padded_layout import PaddedLayout
    from .token_view import TokenView


class Segment(NamedTuple):
    """A segment of the sequence that has been split: `length` tokens on all ranks together.

    `prefix`: the tokens in front of it, which every rank has. `grid`: the shape of the grid that its tokens lay on, if
    they did.
    """

    length: int
    prefix: int = 0
    grid: tuple[int, ...] = ()


class TakenMask(NamedTuple):
    """A key mask that a plan has taken out of the blocks' arguments, and the one that attention is given instead."""

    taken: Tensor
    joint: Tensor


class LocalCopies:
    """Local copies of arguments that all layers share: each is made once per call."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, Any], tuple[Any, Any]] = {}

    def once(self, value: Any, purpose: Any, make: Callable[[], Any]) -> Any:
        """Returns `make()`, the same for the same value and purpose. Keeps the value, so that its id stays unique."""
        key = (id(value), purpose)
        if key not in self._made:
            self._made[key] = (value, make())
        return self._made[key][1]

    def original_of(self, copy: Any) -> Any:
        """The value that a copy was made of. Raises LookupError for anything else."""
        for value, made in self._made.values():
            if made is copy:
                return value
        raise LookupError("not a local copy of this call")


@dataclass
class TokenCall:
    """One call of the model. Empty between calls.

    `arguments`: those of the model, by name. `slots`: (cond, sample) of each batch entry.
    `unsplit`: nothing is split in this call. `holds_all`: the model holds all tokens between its blocks, not only the
    local ones. `module_unsplit`: the module that runs is given all tokens.
    `segments`: those that have been split so far. `gathered`: the tokens of all ranks have been gathered again.
    `scope`: the handler of the attention scope that is running. `key_mask`: see `TakenMask`.
    `copies`: see `LocalCopies`. `divided`: how the ranks divide the tokens of the running module among them, whose
    attention is then each rank's own. `view`: how patches inside the blocks see all tokens.
    `names`: gives messages their names.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    slots: Slots = ()
    unsplit: bool = False
    holds_all: bool = False
    module_unsplit: bool = False
    segments: dict[str, Segment] = field(default_factory=dict)
    gathered: bool = False
    scope: AttentionScopeHandler | None = None
    key_mask: TakenMask | None = None
    copies: LocalCopies = field(default_factory=LocalCopies)
    divided: PaddedLayout | None = None
    view: TokenView | None = None
    names: MessageNames = field(default_factory=MessageNames)

    @property
    def counts(self) -> frozenset[int]:
        """The number of tokens in each segment, and in all together."""
        lengths = [segment.length for segment in self.segments.values()]
        return frozenset({*lengths, sum(lengths)})
