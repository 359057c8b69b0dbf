"""The noise that a stochastic scheduler adds at each step, where every rank has some rows or tokens of a picture.

Each rank of xfuser draws noise for its own part, from generators in the same state, so every part would get the same.
Here all draw it for the whole and keep their part, as the pipeline alone does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from .loading import load, replace

_DRAW = "randn_tensor"


@contextmanager
def noise_of_the_whole(scheduler: Any) -> Iterator[None]:
    """Makes `scheduler`, which xfuser may have wrapped, draw noise for all rows (..., H, W) or tokens (B, N, C)."""
    group = load("xfuser.core.distributed.parallel_state").get_sp_group()
    names = {type(each).__module__ for each in (scheduler, getattr(scheduler, "module", scheduler))}
    with ExitStack() as stack:
        for module in (sys.modules[name] for name in names):
            if hasattr(module, _DRAW):
                replace(stack, module, _DRAW, _part_of(getattr(module, _DRAW), group.rank_in_group, group.world_size))
        yield


def _part_of(draw: Callable[..., Tensor], rank: int, ranks: int) -> Callable[..., Tensor]:
    def drawn(shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Tensor:
        *outer, rows, columns = shape
        return draw((*outer, rows * ranks, columns), *args, **kwargs).narrow(-2, rank * rows, rows)

    return drawn
