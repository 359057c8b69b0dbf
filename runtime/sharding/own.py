"""What one rank needs of an argument that speaks of all tokens: the values a plan's `Localise` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from ..attention.layout import TokenLayout


@dataclass(frozen=True)
class Own:
    """The own tokens of a sequence: `layout` says how its segments lie on the ranks, `part` which of them is ours.

    `whole_between`: between its blocks the model holds all tokens, not only the own ones.
    """

    layout: TokenLayout
    part: int
    whole_between: bool = False

    @property
    def total(self) -> int:
        """The tokens of all ranks."""
        return self.layout.total

    @property
    def lengths(self) -> tuple[int, ...]:
        """The own tokens per segment."""
        return self.layout.local(self.part)

    @property
    def between(self) -> tuple[int, ...]:
        """The tokens per segment that the model counts between its blocks."""
        return self.layout.lengths if self.whole_between else self.lengths

    def tokens(self, x: Tensor, dim: int = 1) -> Tensor:
        """The own tokens of `x`, which holds those of all ranks along `dim`; `x` itself if it holds one for all."""
        return x if x.shape[dim] == 1 else self.layout.split_joint(x, dim, self.part)

    def repeated(self, x: Tensor, dim: int = 1) -> Tensor:
        """The own tokens of `x`, in which each entry along `dim` is for as many neighbouring tokens (such as a frame).

        One entry is for all and stays one.
        """
        entries = x.shape[dim]
        if entries == 1:
            return x
        own = torch.cat([torch.arange(first, last) for first, last in self.layout.ranges(self.part)])
        return x.index_select(dim, own.to(x.device) // -(-self.total // entries))

    def position(self, token: int | None) -> int | None:
        """How many own tokens come before `token`, a position in the whole sequence; None (the end) stays None."""
        if token is None:
            return None
        return sum(min(max(token, first), last) - first for first, last in self.layout.ranges(self.part))


class LocalResiduals(Sequence[Any]):
    """Residuals that a model adds to its tokens, layer by layer: each is cut to the own tokens when it is asked for.

    Residuals of fewer tokens than the model has are for its first ones.
    """

    def __init__(self, residuals: Sequence[Tensor | None], own: Callable[[], Own], dim: int) -> None:
        self._residuals, self._own, self._dim = residuals, own, dim

    def __len__(self) -> int:
        return len(self._residuals)

    @overload
    def __getitem__(self, index: int) -> Tensor | None: ...

    @overload
    def __getitem__(self, index: slice) -> LocalResiduals: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return LocalResiduals(self._residuals[index], self._own, self._dim)
        residual = self._residuals[index]
        if residual is None:
            return None
        own = self._own()
        ((first, last),) = own.layout.ranges(own.part)
        length = residual.shape[self._dim]
        first, last = min(first, length), min(last, length)
        return residual.narrow(self._dim, first, last - first)

    def pop(self) -> Tensor | None:
        """The last residual, which is then no longer among them."""
        residual, self._residuals = self[-1], self._residuals[:-1]
        return residual


def local_control(control: Mapping[str, Any], own: Callable[[], Own], dim: int) -> dict[str, Any]:
    """ComfyUI's control, {"input" | "middle" | "output": residuals}, cut to the own tokens as it is used."""
    return {name: LocalResiduals(residuals, own, dim) for name, residuals in control.items()}
