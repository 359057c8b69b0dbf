"""One axis of the mesh, and the exchange of tensors between its ranks.

Receives are posted before sends: on a link that is busy both ways the other order takes twice as long
(measured on 100 Mbit/s: 715 ms against 1396 ms for 8 MiB each way).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from ..report.ledger import Ledger


@dataclass(frozen=True)
class Axis:
    """One axis of the mesh as a rank sees it: the global ranks in axis order, and the own position among them.

    `group` is the process group of exactly these ranks, None for an axis of size 1.
    """

    name: str
    ranks: tuple[int, ...]
    index: int
    group: dist.ProcessGroup | None = None

    @property
    def size(self) -> int:
        """Number of ranks on the axis."""
        return len(self.ranks)

    def others(self) -> list[int]:
        """The indices of the other ranks, the next one first."""
        return [(self.index + step) % self.size for step in range(1, self.size)]


class Transfer:
    """Tensors on their way; `finish` waits for them. Made by `start_exchange`."""

    def __init__(
        self, axis: Axis, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], overlapped: bool
    ) -> None:
        tensors = [*sends.values(), *receives.values()]
        on_gpu = any(x.device.type == "cuda" for x in tensors)
        nccl = on_gpu and "nccl" in dist.get_backend(axis.group)  # a group may hold "cpu:gloo,cuda:nccl"
        self._copies: list[tuple[Tensor, Tensor]] = []
        arriving = [(axis.ranks[i], self._receive_buffer(x, nccl)) for i, x in receives.items() if x.numel()]
        leaving = [(axis.ranks[i], _bytes(x, nccl)) for i, x in sends.items() if x.numel()]
        operations = [(dist.irecv, *given) for given in arriving] + [(dist.isend, *given) for given in leaving]
        self._buffers = [buffer for _, _, buffer in operations]
        self._started = time.perf_counter()
        if nccl and operations:
            self._works = dist.batch_isend_irecv([dist.P2POp(op, x, peer, axis.group) for op, peer, x in operations])
        else:
            self._works = [op(x, peer, group=axis.group) for op, peer, x in operations]
        self._done: Future[float] | None = None
        if overlapped and not nccl and operations:
            watcher = ThreadPoolExecutor(1)
            self._done = watcher.submit(self._wait)
            watcher.shutdown(wait=False)

    def _receive_buffer(self, target: Tensor, nccl: bool) -> Tensor:
        if target.device.type == "cpu" or nccl:
            return target.view(-1).view(torch.uint8)
        host = torch.empty(target.numel() * target.element_size(), dtype=torch.uint8, pin_memory=True)
        self._copies.append((target.view(-1).view(torch.uint8), host))
        return host

    def _wait(self) -> float:
        for work in self._works:
            work.wait()
        return time.perf_counter()

    def finish(self, ledger: Ledger) -> None:
        """Returns when everything has been sent and received; seconds waited are "exposed", seconds before "hidden".

        With nccl the device waits, not the host, and neither is seen here.
        Raises RuntimeError when a peer is gone or silent for longer than the group's timeout.
        """
        asked = time.perf_counter()
        with ledger.phase("exposed"):
            done = self._done.result() if self._done is not None else self._wait()
            for target, host in self._copies:
                target.copy_(host)
        if self._done is not None:
            ledger.hidden(min(done, asked) - self._started)


def _bytes(x: Tensor, nccl: bool) -> Tensor:
    flat = x.contiguous().view(-1).view(torch.uint8)
    return flat if x.device.type == "cpu" or nccl else flat.cpu()


def start_exchange(axis: Axis, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor]) -> Transfer:
    """Posts `exchange` and returns at once. The tensors must stay as they are until `finish`."""
    return Transfer(axis, sends, receives, overlapped=True)


def exchange(axis: Axis, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], ledger: Ledger) -> None:
    """Sends and receives tensors of any shape and dtype, by axis index, and waits for all of them.

    `receives` holds contiguous tensors that are written to; both sides must know the sizes. Empty tensors are not sent.
    Raises RuntimeError when a peer is gone or silent for longer than the group's timeout.
    """
    Transfer(axis, sends, receives, overlapped=False).finish(ledger)
