"""The ControlNet of a UNet, whose rows are split: the first half of a UNet, that gives a residual behind each block."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...attention.sequence import SequenceAttention
from ..controlnet import in_place
from .plan import RowPlan
from .shard import RowSharding


class ControlRows(RowSharding):
    """See `RowSharding`. The hint and the first block (2 % of the work) run whole on every rank, as the hint may be
    pooled over the whole picture (union) before it is added behind that block.

    Its residuals are those of all rows, alike on every rank. With `keeps_own` all but the first are right at the own
    rows only, and zero elsewhere: for a model that takes no others. Then nothing of them is sent.
    """

    keeps_own = False
    given = ()

    def __init__(self, control: nn.Module, plan: RowPlan, attention: SequenceAttention) -> None:
        super().__init__(_behind_the_hint(control), plan, attention)
        self.called = control

    def _attach(self) -> None:
        super()._attach()
        for path, module in self._resolve("zero_convs.*"):
            self._behind(module, partial(self._gather, path))
        self._before(self.called, self._start)
        self._behind(self.called, self._end)

    def _gather(self, path: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not self.keeps_own:
            return super()._gather(path, module, args, output)
        self._forward.gathered = True
        return in_place(output, output.ndim - 2, self._rows.height, *self._rows.rows(self.attention.part))


def _behind_the_hint(control: nn.Module) -> nn.Module:
    """The modules of a ControlNet that are given own rows, under their names."""
    return nn.Sequential(
        OrderedDict(
            input_blocks=nn.ModuleList(control.input_blocks[1:]),
            zero_convs=nn.ModuleList(control.zero_convs[1:]),
            middle_block=control.middle_block,
            middle_block_out=control.middle_block_out,
        )
    )
