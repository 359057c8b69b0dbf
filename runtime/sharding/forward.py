"""The state of one forward of a model whose tokens are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .padded_layout import PaddedLayout
from .plan import AttentionScope


@dataclass
class Forward:
    """`given`: the arguments of the model.

    `lengths`: the full length of each segment that has been split. `grids`: the shape of the grid its tokens had.
    `fronts`: the number of prefix tokens in front of it, which every rank has.
    `unsplit`: nothing is split in this forward. `whole_between`: the model holds all tokens between its blocks.
    `whole_block`: the block that runs is given all tokens, too.
    `gathered`: a hook has gathered the tokens of all ranks again.
    `scope`, `scope_module`, `scope_path`, `scope_calls`, `scope_skipped`: the attention scope that is running, its
    module, its name, the attention calls so far, and whether none is to come.
    `key_mask`: what attention is given for `taken_mask`, a mask that the plan has taken from the blocks.
    `copies`: {(id of a value, purpose): (the value, what was made of it)}.
    `patched`: patches in front of attention may add keys.
    `shared`: how the ranks share the tokens of the running module, whose attention is then each rank's own.
    `all_given`: the next attention is given all tokens. `whole_output`: its output is of all tokens, too.
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
    shared: PaddedLayout | None = None

    @property
    def counts(self) -> frozenset[int]:
        """The number of tokens in each segment, and in all together."""
        return frozenset({*self.lengths.values(), sum(self.lengths.values())})

    def off_grid(self, x: Tensor, segment: str, dim: int, grid: int) -> Tensor:
        """Flattens a grid of `grid` dimensions, from `dim` on, along the first; the others become 1."""
        if grid == 1:
            return x
        last = dim + grid - 1
        self.grids[segment] = x.shape[dim : last + 1]
        return x.flatten(dim, last)[(slice(None),) * (dim + 1) + (None,) * (grid - 1)]

    def on_grid(self, x: Tensor, segment: str, dim: int) -> Tensor:
        """Puts all tokens of a segment back on the grid they had in the model."""
        grid = self.grids.get(segment)
        return x.reshape(*x.shape[:dim], *grid, *x.shape[dim + len(grid) :]) if grid else x
