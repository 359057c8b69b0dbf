"""Counts the bytes that xfuser's own exchanges send, so that a run's report has them with and without our exchanges.

Legend: B batch, H heads, L tokens of one rank, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ...report.ledger import Ledger
from .groups import axes
from .loading import load, part, replace


@contextmanager
def counted_messages(ledger: Ledger) -> Iterator[None]:
    """Tells `ledger` of all-to-alls, rings and all-gathers of xfuser for the block's duration."""
    usp = load("xfuser.model_executor.layers.usp")
    coordinator = part(load("xfuser.core.distributed.group_coordinator"), "GroupCoordinator")
    all_to_all, ring, gather = part(usp, "_sdpa_all_to_all_single"), part(usp, "ring_attn"), coordinator.all_gather

    def counted_all_to_all(x: Tensor) -> Tensor:
        members = axes()["ulysses"].size
        _count(ledger, x.numel() * (members - 1) // members, x)
        return all_to_all(x)

    def counted_ring(function: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _count(ledger, (axes()["ring"].size - 1) * (key.numel() + value.numel()), key)
        return ring(function, query, key, value, *args, **kwargs)

    def counted_gather(group: Any, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        _count(ledger, (group.world_size - 1) * input_.numel(), input_)
        return gather(group, input_, *args, **kwargs)

    with ExitStack() as stack:
        replace(stack, usp, "_sdpa_all_to_all_single", counted_all_to_all)
        replace(stack, usp, "ring_attn", counted_ring)
        replace(stack, coordinator, "all_gather", counted_gather)
        yield


def _count(ledger: Ledger, values: int, like: Tensor) -> None:
    ledger.sent(values * like.element_size(), 2 * values)
