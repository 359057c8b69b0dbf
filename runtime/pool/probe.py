"""Measures the link between the workers, the way the exchanges of attention use it.

Every rank sends to the next one and receives from the one before, all at the same time, so that each link is busy in
both directions. The slowest rank counts, and all ranks return the same.

Legend: P ranks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist

from ..attention.axis import Axis, exchange
from ..report.ledger import Ledger

ROUNDS = 5
"""Small messages that are timed; the fastest counts."""
TARGET_SECONDS = 0.05
"""A message that takes as long tells the bandwidth. A link's burst allowance and the start of a TCP stream are over."""
FIRST_BYTES = 4 << 10
LARGEST_BYTES = 8 << 20
MESSAGES = 10
"""Messages stop growing at LARGEST_BYTES, even if they take less than TARGET_SECONDS; up to MESSAGES are timed then."""


class LinkSpeed(NamedTuple):
    """What one direction of the slowest link carries while every rank sends and receives."""

    bytes_per_second: float
    latency_s: float


def measure_link(device: torch.device) -> LinkSpeed:
    """Measures between all ranks of the default process group; `device` is where each rank's tensors are.

    Collective. Takes about 0.2 s, and longer only where 4 KiB take longer: how much the next message holds depends on
    how long the last one took. Raises RuntimeError when a peer is gone.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    axis = Axis("probe", tuple(range(world)), rank, dist.group.WORLD)
    ledger = Ledger()

    def exchanged(nbytes: int) -> float:
        """Seconds of one message each way, as this rank sees it."""
        sent, received = (torch.ones(nbytes, dtype=torch.uint8, device=device) for _ in range(2))
        _synchronize(device)
        started = time.perf_counter()
        exchange(axis, {(rank + 1) % world: sent}, {(rank - 1) % world: received}, ledger)
        _synchronize(device)
        return time.perf_counter() - started

    def transferred(nbytes: int) -> float:
        """Seconds of one message each way, less the latency; the same on all ranks."""
        seconds = slowest({"message": exchanged(nbytes)})["message"]
        return max(seconds - latency, seconds / 2)

    exchanged(1)  # makes the connections
    latency = slowest({"latency": min(exchanged(1) for _ in range(ROUNDS))})["latency"]
    nbytes, seconds = FIRST_BYTES, transferred(FIRST_BYTES)
    while seconds < TARGET_SECONDS and nbytes < LARGEST_BYTES:
        growth = min(8.0, max(2.0, 1.5 * TARGET_SECONDS / seconds))
        nbytes = min(LARGEST_BYTES, int(nbytes * growth))
        seconds = transferred(nbytes)
    taken = [seconds]
    while sum(taken) < 2 * TARGET_SECONDS and len(taken) < MESSAGES:  # a busy moment is not the link's fault
        taken.append(transferred(nbytes))
    return LinkSpeed(nbytes / min(taken), latency)


def slowest(seconds: Mapping[str, float]) -> dict[str, float]:
    """Every value's largest over the ranks of the default process group, which give the same names. Collective."""
    largest = torch.tensor(list(seconds.values()), dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return dict(zip(seconds, largest.tolist()))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
