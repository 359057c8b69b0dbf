"""What is known of one forward of a model whose tokens are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .plan import AttentionScope
from .spare import HeldTokens


@dataclass
class Forward:
    """`given`: the arguments of the model.
    `lengths`: all tokens of each segment that has been split. `grids`: how they lay in the model. `fronts`: the tokens
    in front of it that every rank has.

    `unsplit`: nothing is split in it. `whole_between`, `whole_block`: the model holds all tokens between its blocks,
    and in the one that runs.
    `scope`: the attention that is split now, its module, its name, the calls so far, and whether none is to come.
    `key_mask` is given to attention for a mask the plan has taken from the blocks, `taken_mask`.
    `copies`: {(id of a value, for what): (the value, what was made of it)}.
    `patched`: patches in front of attention may add keys.
    `shared`: how the ranks share the tokens of the module at work, whose attention is then each rank's own.
    `all_given`: the next attention is given all tokens. `whole_output`: what it gave is of all tokens, too.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    grids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fronts: dict[str, int] = field(default_factory=dict)
    unsplit: bool = False
    whole_between: bool = False
    whole_block: bool = False
    gathered: bool = False
    scope: AttentionScope | None = None
    scope_module: nn.Module | None = None
    scope_path: str = ""
    scope_calls: int = 0
    scope_skipped: bool = False
    key_mask: Tensor | None = None
    taken_mask: Tensor | None = None
    copies: dict[tuple[int, Any], tuple[Any, Any]] = field(default_factory=dict)
    patched: bool = False
    all_given: bool = False
    whole_output: bool = False
    shared: HeldTokens | None = None

    @property
    def counts(self) -> frozenset[int]:
        """How many tokens each segment has, and all together."""
        return frozenset({*self.lengths.values(), sum(self.lengths.values())})

    def off_grid(self, x: Tensor, segment: str, dim: int, grid: int) -> Tensor:
        """Tokens on a grid of `grid` dimensions from `dim` on, along the first; the others become 1."""
        if grid == 1:
            return x
        last = dim + grid - 1
        self.grids[segment] = x.shape[dim : last + 1]
        return x.flatten(dim, last)[(slice(None),) * (dim + 1) + (None,) * (grid - 1)]

    def on_grid(self, x: Tensor, segment: str, dim: int) -> Tensor:
        """All tokens of a segment as they lay in the model."""
        grid = self.grids.get(segment)
        return x.reshape(*x.shape[:dim], *grid, *x.shape[dim + len(grid) :]) if grid else x
