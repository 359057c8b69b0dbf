"""The context that the handlers of a row plan and the view of patches share: ranks, plan, running call, gathering.

B batch, C channels, H all rows, R local rows, W columns, N all tokens of a map, L local tokens.
"""

from __future__ import annotations

from torch import Tensor

from ...attention.sequence_attention import SequenceAttention
from ...compression.wire import Tag
from .row_call import RowCall
from .row_exchange import RowExchange
from .row_layout import RowLayout
from .row_plan import RowPlan


class RowContext:
    """The context that the handlers of one UNet share.

    `call`: the running call of the model, empty between calls. `downs`: the number of times that the rows are halved.
    `skips`: the number of input blocks whose output is a skip. `keeps_local`: what is gathered stays local: its local
    rows at their places, and zero elsewhere. Then none of it is sent.
    """

    def __init__(self, plan: RowPlan, attention: SequenceAttention, exchange: RowExchange) -> None:
        self.plan, self.attention, self.exchange = plan, attention, exchange
        self.call = RowCall()
        self.downs = self.skips = 0
        self.keeps_local = False

    @property
    def shard_index(self) -> int:
        """Which shard of the rows this rank holds."""
        return self.attention.shard_index

    @property
    def rows(self) -> RowLayout:
        """The layout of the rows at the current resolution. Raises Unsupported before the first layer."""
        if not self.call.levels:
            raise self.plan.refuse_unrun("first layer")
        return self.call.levels[self.call.level]

    @property
    def tokens(self) -> RowLayout:
        """The layout of the tokens of the running transformer's map."""
        return self.rows.tokens(self.call.width)

    def gather(self, x_BCRW: Tensor, what: str) -> Tensor:
        """All rows of a map at the current resolution; `what` names the message."""
        self.check(x_BCRW, self.rows.chunk(self.shard_index))
        tag = Tag(self.call.names.unique(what), "rows", self.call.slots, sensitive=True)
        return self.attention.gather_tokens(x_BCRW, self.rows, x_BCRW.ndim - 2, tag)

    def cut(self, x_BCHW: Tensor) -> Tensor:
        """The local rows of a map at the current resolution."""
        self.check(x_BCHW, self.rows.height)
        first, last = self.rows.rows(self.shard_index)
        return x_BCHW.narrow(-2, first, last - first).contiguous()

    def gather_tokens(self, x_BLC: Tensor, what: str) -> Tensor:
        """The tokens of all rows of the current map; `what` names the message."""
        self._check_tokens(x_BLC, self.tokens.chunk(self.shard_index))
        tag = Tag(self.call.names.unique(what), "tokens", self.call.slots, sensitive=True)
        return self.attention.gather_tokens(x_BLC, self.tokens, 1, tag)

    def cut_tokens(self, x_BNC: Tensor) -> Tensor:
        """The tokens of the local rows of the current map."""
        self._check_tokens(x_BNC, self.tokens.total)
        return self.tokens.split(x_BNC, 0, 1, self.shard_index)

    def check(self, x: Tensor, rows: int) -> None:
        """Raises Unsupported for a map that does not have so many rows."""
        if x.shape[-2] != rows:
            raise self.plan.refuse(f"a patch that makes a feature map of {x.shape[-2]} rows where {rows} were expected")

    def _check_tokens(self, x_BNC: Tensor, tokens: int) -> None:
        if x_BNC.shape[1] != tokens:
            raise self.plan.refuse(
                f"a patch inside a transformer that makes {x_BNC.shape[1]} tokens of {tokens}, or of those of one frame"
            )
