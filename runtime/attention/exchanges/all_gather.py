"""All-gather: every rank sends its K and V to all others, then attends to all keys at once.

B batch, L tokens of one rank, N tokens of all, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from .exchange import Attention, Exchange
from .gathered import Gathered


class AllGather(Exchange):
    """Sends K and V once, before the attention. With head chunks, one chunk is computed while the next one travels."""

    name = "all_gather"
    tooltip = "one exchange, then your own attention function."
    place = 10
    overlaps_heads = True

    def attend(self, attention: Attention) -> Generator[None, None, Tensor]:
        """See `Exchange.attend`."""
        return attention.function(*(yield from gather_kv(attention)))


def gather_kv(attention: Attention) -> Generator[None, None, list[Tensor]]:
    """K and V of all ranks, concatenated in axis order: (B, N, H, D). Yields when all messages are under way."""
    gathered = Gathered.of(attention)
    delivery = gathered.send(attention)
    yield
    gathered.receive(delivery)
    return gathered.tensors(attention)


EXCHANGE = AllGather
