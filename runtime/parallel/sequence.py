"""Sequence parallelism: every rank runs the model on its part of the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..attention.axis import Axis
from ..attention.sequence import SequenceAttention
from ..compression.wire import Wire
from ..report.ledger import Ledger
from ..sharding.plans import plan_for
from ..sharding.shard import Sharding, batch_slots
from .mesh import Degrees

OVERRIDE = "optimized_attention_override"


@contextmanager
def sequence_parallel(
    patcher: Any,
    degrees: Degrees,
    axes: dict[str, Axis],
    wire: Wire,
    ledger: Ledger,
) -> Iterator[Callable]:
    """Shard the model of `patcher` for the block's duration. Gives the APPLY_MODEL wrapper that belongs to it.

    At its end nothing is on its way between the ranks. Raises Unsupported for a model family without a plan.
    """
    module = patcher.model.diffusion_model
    attention = SequenceAttention(
        ulysses=axes["ulysses"],
        ring=axes["ring"],
        ring_exchange=degrees.ring_exchange,
        wire=wire,
        ledger=ledger,
        overlap=degrees.overlap,
    )
    with attention, Sharding(module, plan_for(module), attention) as sharding:
        yield _ApplyModel(sharding)


class _ApplyModel:
    """The APPLY_MODEL wrapper: names the batch entries for the residual streams and puts our attention in place."""

    def __init__(self, sharding: Sharding) -> None:
        self._sharding = sharding

    def __call__(
        self,
        executor: Callable,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None,
        c_crossattn: torch.Tensor | None,
        control: Any,
        transformer_options: dict,
        **conditioning: Any,
    ) -> torch.Tensor:
        self._sharding.begin_forward(batch_slots(transformer_options, x.shape[0]))
        previous = transformer_options.get(OVERRIDE)
        options = {**transformer_options, OVERRIDE: self._sharding.attention_override(previous)}
        return executor(x, t, c_concat, c_crossattn, control, options, **conditioning)
