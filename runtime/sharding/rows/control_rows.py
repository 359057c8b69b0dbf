"""Row sharding of a UNet's ControlNet: the first half of a UNet, with an output of control after each block."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from ...attention.sequence_attention import SequenceAttention
from .row_handlers import GatherRowsHandler
from .row_plan import RowPlan
from .row_sharding import RowSharding, site_of


class ControlRows(RowSharding):
    """See `RowSharding`. The hint and the first block (2 % of the work) run in full on every rank.

    The hint may be pooled over the whole picture (union) before it is added after that block. The control has all rows,
    the same on every rank. With `keeps_local` all but the first is right at the local rows only, and zero elsewhere,
    for a model that takes no others. Then none of it is sent.
    """

    given = ()

    def __init__(self, control: nn.Module, plan: RowPlan, attention: SequenceAttention) -> None:
        super().__init__(_after_the_hint(control), plan, attention)
        self.called = control

    def _attach(self) -> None:
        super()._attach()
        for found in self._resolve("zero_convs.*"):
            self._attach_handler(GatherRowsHandler(site_of(*found), self._context))

    @property
    def keeps_local(self) -> bool:
        """Whether the control stays local."""
        return self._context.keeps_local

    @keeps_local.setter
    def keeps_local(self, keeps: bool) -> None:
        self._context.keeps_local = keeps


def _after_the_hint(control: nn.Module) -> nn.Module:
    """The modules of a ControlNet that are given local rows, under their names."""
    return nn.Sequential(
        OrderedDict(
            input_blocks=nn.ModuleList(control.input_blocks[1:]),
            zero_convs=nn.ModuleList(control.zero_convs[1:]),
            middle_block=control.middle_block,
            middle_block_out=control.middle_block_out,
        )
    )
