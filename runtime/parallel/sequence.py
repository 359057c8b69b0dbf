"""Sequence parallelism: every rank runs the model on its local shard of the tokens, or of the rows of a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..attention.axis import Axis
from ..attention.sequence_attention import SequenceAttention
from ..attention.unsupported import WAY_OUT
from ..compression.wire import Wire
from ..report.ledger import Ledger
from ..sharding.hooks import Hooked
from ..sharding.parallelize import split_over_ranks
from .mesh import Degrees


def sequence_attention(
    degrees: Degrees, axes: dict[str, Axis], wire: Wire, ledger: Ledger, *, way_out: str = WAY_OUT
) -> SequenceAttention:
    """The attention over the axes "ulysses" and "ring", as the degrees set it; for `way_out` see SequenceAttention."""
    return SequenceAttention(
        ulysses=axes["ulysses"],
        ring=axes["ring"],
        ring_exchange=degrees.ring_exchange,
        wire=wire,
        ledger=ledger,
        overlap=degrees.overlap,
        head_chunk_nbytes=degrees.head_chunk_nbytes,
        way_out=way_out,
    )


@contextlib.contextmanager
def attached_for(sharding: Hooked) -> Iterator[None]:
    """Takes the sharding off its model at the end of the block, where no message of its attention is in flight."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(sharding.attention)
        stack.callback(sharding.detach)
        yield


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
    sharding = split_over_ranks(module, sequence_attention(degrees, axes, wire, ledger))
    sharding.replaced = replaced
    sharding.asked = degrees.split_asked
    with attached_for(sharding):
        yield sharding
