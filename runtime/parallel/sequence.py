"""Sequence parallelism: every rank runs the model on its local shard of the tokens, or of the rows of a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..attention.axis import Axis
from ..attention.sequence_attention import SequenceAttention
from ..compression.wire import Wire
from ..report.ledger import Ledger
from ..sharding.hooks import Hooked
from ..sharding.parallelize import split_over_ranks
from .mesh import Degrees


@contextlib.contextmanager
def sequence_parallel(
    module: nn.Module,
    degrees: Degrees,
    axes: dict[str, Axis],
    wire: Wire,
    ledger: Ledger,
    *,
    replaced: tuple[str, ...] = (),
) -> Iterator[Hooked]:
    """Shard a model for the block's duration. Yields the sharding, which attaches itself at the first forward.

    `replaced`: paths of modules within it whose code the user has replaced, which run on all tokens. At the end no
    message between the ranks is in flight. Raises Unsupported for a model family without a plan.
    """
    attention = SequenceAttention(
        ulysses=axes["ulysses"],
        ring=axes["ring"],
        ring_exchange=degrees.ring_exchange,
        wire=wire,
        ledger=ledger,
        overlap=degrees.overlap,
        head_chunk_nbytes=degrees.head_chunk_nbytes,
    )
    sharding = split_over_ranks(module, attention)
    sharding.replaced = replaced
    sharding.asked = degrees.split_asked
    with contextlib.ExitStack() as stack:
        stack.enter_context(attention)
        stack.callback(sharding.detach)
        yield sharding
