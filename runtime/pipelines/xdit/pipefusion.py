"""PipeFusion's messages between stages: xfuser's own, but none of them waits for its receiver, and all are counted.

Fang et al.: PipeFusion, 2024 (arXiv:2405.14430).
xfuser sends the shape of a tensor before its first message and waits until it was received. Over gloo two stages that
send to each other then wait for ever, each for a receive that the other posts later. It also drops the handle of every
send that it does not wait for, and gloo then may drop the message. Here both kinds of sends go on by themselves, and
their handles and tensors are kept until the receiver is known to have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...report.ledger import Ledger
from .loading import load, part, replace


class Send:
    """A send that has begun; the tensor is alive until it was sent."""

    def __init__(self, step: int, work: dist.Work, tensor: Tensor) -> None:
        self.step = step
        self._under_way: tuple[dist.Work, Tensor] | None = (work, tensor)

    def wait(self) -> None:
        """Waits until it was sent. Over gloo the wait for a handle that was waited for already never ends."""
        if self._under_way is not None:
            self._under_way[0].wait()
            self._under_way = None


class Sends:
    """The sends of one rank that may be under way."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: list[Send] = []
        self.step = 0
        """The denoising step that the rank is at."""

    def keep(self, work: dist.Work, tensor: Tensor, counted: bool = True) -> Send:
        """Keeps a send that has just begun."""
        if counted:
            self._ledger.sent(tensor.numel() * tensor.element_size(), 2 * tensor.numel())
        self._kept.append(Send(self.step, work, tensor))
        return self._kept[-1]

    def arrived(self, step: int) -> None:
        """Lets go of the sends of the steps before `step`: every rank has received them."""
        for send in self._kept:
            if send.step < step:
                send.wait()
        self._kept = [send for send in self._kept if send.step >= step]


@contextmanager
def pipefusion_messages(ledger: Ledger, device: torch.device) -> Iterator[Sends]:
    """Replaces xfuser's sends between stages for the block's duration. Yields those under way."""
    coordinator = part(load("xfuser.core.distributed.group_coordinator"), "PipelineGroupCoordinator")
    sends = Sends(ledger)
    send = part(coordinator, "_pipeline_isend")

    def isend(group: Any, tensor: Tensor) -> Send:
        return sends.keep(send(group, tensor), tensor)

    def communicate_shapes(
        group: Any, tensor_send_to_next: Tensor | None = None, recv_prev: bool = False
    ) -> torch.Size:
        """Tells the next stage the shape of a tensor, if there is one, and learns one from the stage before."""
        pair = group.device_group
        if tensor_send_to_next is not None:
            shape = tuple(tensor_send_to_next.shape)
            for told in (torch.tensor([len(shape)]), torch.tensor(shape)):
                sends.keep(dist.isend(told, group.next_rank, group=pair), told, counted=False)
        if not recv_prev:
            return torch.Size([0, 0, 0])
        dims = torch.empty(1, dtype=torch.int64)
        dist.recv(dims, group.prev_rank, group=pair)
        shape = torch.empty(int(dims), dtype=torch.int64)
        dist.recv(shape, group.prev_rank, group=pair)
        return torch.Size(shape.tolist())

    with ExitStack() as stack:
        replace(stack, coordinator, "_pipeline_isend", isend)
        part(coordinator, "_communicate_shapes")
        if device.type == "cpu":
            replace(stack, coordinator, "_communicate_shapes", communicate_shapes)
        yield sends
