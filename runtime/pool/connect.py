"""Connects the workers at their start, and proves it: each passes bytes of its device to the next and checks its own.

A backend may join all ranks and fail, hang or lose bytes only when the first message travels, as NCCL does where shared
memory is short or the cards cannot reach each other.

Legend: P ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import torch.distributed as dist

from ..attention.axis import Axis, exchange
from ..report.ledger import Ledger
from .errors import NoConnection
from .orders import Orders
from .rendezvous import join_all

FIRST_BYTES = 4 << 20
"""Large enough for the way by which large messages travel; small ones may take another."""


def connect(orders: Orders, late: Callable[[NoConnection], None]) -> None:
    """Make the default process group and pass a message to the next rank. Collective.

    `late` is called, in another thread, if the message takes longer than `orders.connect_seconds`; this call may then
    never return. Raises NoConnection if the ranks cannot join, the message cannot pass, or other bytes arrive.
    """
    seconds = orders.connect_seconds
    limit = threading.Timer(seconds, lambda: late(_failed(orders, f"nothing arrived within {seconds:g} s")))
    limit.daemon = True
    try:
        join_all(orders.rendezvous, orders.rank, orders.world, orders.backend)
        limit.start()  # all ranks are here
        pass_around(torch.device(orders.device))
    except (RuntimeError, ValueError) as error:
        raise _failed(orders, str(error).strip().partition("\n")[0]) from error
    finally:
        limit.cancel()


def pass_around(device: torch.device) -> None:
    """Send bytes on `device` to the next rank and check those of the previous one. Collective.

    A single rank only uses its device. Raises RuntimeError if that fails or the bytes are wrong.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    previous = (rank - 1) % world
    sent = torch.full((FIRST_BYTES,), rank % 251, dtype=torch.uint8, device=device)
    received = torch.full_like(sent, 255)
    if world == 1:
        received.copy_(sent)
    else:
        axis = Axis("connect", tuple(range(world)), rank, dist.group.WORLD)
        exchange(axis, {(rank + 1) % world: sent}, {previous: received}, Ledger())
    if not bool((received == previous % 251).all()):
        raise RuntimeError("other bytes arrived than were sent")


def _failed(orders: Orders, reason: str) -> NoConnection:
    other = "backend of Parallel Worker Pool to gloo, or " if orders.backend == "nccl" else ""
    return NoConnection(
        f"{orders.name.capitalize()} could not exchange data with the other workers by {orders.backend} ({reason}); "
        f'set {other}on_unsupported of Parallel Model to "run on one device".'
    )
