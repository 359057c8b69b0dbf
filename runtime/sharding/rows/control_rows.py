"""Row sharding of a UNet's ControlNet: the first half of a UNet, with an output of control after each block."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...attention.sequence import SequenceAttention
from ..control_tokens import in_place
from .row_plan import RowPlan
from .row_sharding import RowSharding


class ControlRows(RowSharding):
    """See `RowSharding`. The hint and the first block (2 % of the work) run in full on every rank.

    The hint may be pooled over the whole picture (union) before it is added after that block. The control has all rows,
    the same on every rank. With `keeps_own` all but the first is right at the local rows only, and zero elsewhere: for
    a model that takes no others. Then none of it is sent.
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
        return in_place(output, output.ndim - 2, self._rows.height, *self._rows.rows(self.attention.shard_index))


def _behind_the_hint(control: nn.Module) -> nn.Module:
    """The modules of a ControlNet that are given local rows, under their names."""
    return nn.Sequential(
        OrderedDict(
            input_blocks=nn.ModuleList(control.input_blocks[1:]),
            zero_convs=nn.ModuleList(control.zero_convs[1:]),
            middle_block=control.middle_block,
            middle_block_out=control.middle_block_out,
        )
    )
