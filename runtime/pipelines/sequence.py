"""Sequence parallelism of a pipeline's denoiser: every rank runs it on its local shard of the tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..attention.axis import Axis
from ..attention.unsupported import Unsupported
from ..compression.wire import Wire
from ..parallel.mesh import Degrees
from ..parallel.sequence import attached_for, sequence_attention
from ..report.ledger import Ledger
from ..sharding.hooks import Hooked
from .denoiser_sharding import DenoiserTokens
from .library import DIFFUSERS
from .plans import plan_for


@contextlib.contextmanager
def split_denoiser(
    module: nn.Module, degrees: Degrees, axes: dict[str, Axis], wire: Wire, ledger: Ledger
) -> Iterator[Hooked]:
    """Shards a denoiser for the block's duration. Yields the sharding, which attaches itself at the first forward.

    Call its `begin_forward(slots)` before each forward; slots has (condition, sample index) for each entry of the
    batch. Every rank must be given the same inputs, and gets the whole output, the same bits. At the end no message
    between the ranks is in flight. Raises Unsupported for a class without a plan.
    """
    plan = plan_for(module)
    if plan is None:
        name = type(module).__name__
        raise Unsupported(f"There is no sequence-parallel plan for {name} of diffusers; {DIFFUSERS.way_out}")
    attention = sequence_attention(degrees, axes, wire, ledger, way_out=DIFFUSERS.way_out)
    sharding = DenoiserTokens(module, plan, attention)
    sharding.asked = degrees.split_asked
    with attached_for(sharding):
        yield sharding
