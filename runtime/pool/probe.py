"""Measures bandwidth and latency of the link between the workers, under the load that attention exchanges put on it.

Every rank sends to the next rank and receives from the previous one, all at the same time, so that each link is busy in
both directions. The slowest rank counts, and all ranks return the same values.

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
"""The number of small messages timed for the latency; the fastest counts."""
TARGET_SECONDS = 0.05
"""A message that takes this long shows the bandwidth: burst allowance and TCP slow start no longer matter."""
FIRST_BYTES = 4 << 10
LARGEST_BYTES = 8 << 20
MESSAGES = 10
"""Messages grow up to LARGEST_BYTES, even if they take less than TARGET_SECONDS; up to MESSAGES of them are timed."""


class LinkSpeed(NamedTuple):
    """Bandwidth and latency of one direction of the slowest link while every rank sends and receives."""

    bytes_per_second: float
    latency_s: float


def measure_link(device: torch.device) -> LinkSpeed:
    """Measures the link between all ranks of the default process group; each rank's tensors are on `device`.

    Collective. Takes about 0.2 s, longer only if 4 KiB take longer, as each message's size depends on how long the last
    one took. Raises RuntimeError when a peer is gone.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    axis = Axis("probe", tuple(range(world)), rank, dist.group.WORLD)
    ledger = Ledger()

    def exchanged(nbytes: int) -> float:
        """Seconds for one message each way, as measured on this rank."""
        sent, received = (torch.ones(nbytes, dtype=torch.uint8, device=device) for _ in range(2))
        _synchronize(device)
        started = time.perf_counter()
        exchange(axis, {(rank + 1) % world: sent}, {(rank - 1) % world: received}, ledger)
        _synchronize(device)
        return time.perf_counter() - started

    def transferred(nbytes: int) -> float:
        """Seconds for one message each way, minus the latency; the same on all ranks."""
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
    while sum(taken) < 2 * TARGET_SECONDS and len(taken) < MESSAGES:  # the fastest counts, in case the machine was busy
        taken.append(transferred(nbytes))
    return LinkSpeed(nbytes / min(taken), latency)


def slowest(seconds: Mapping[str, float]) -> dict[str, float]:
    """The maximum of each value over all ranks, which must pass the same names in the same order. Collective."""
    largest = torch.tensor(list(seconds.values()), dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return dict(zip(seconds, largest.tolist()))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
