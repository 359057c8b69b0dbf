"""Handlers of workers whose torch.distributed fails in one way or another while they connect.

They pretend to have NCCL: gloo carries it, until the first message, which the handler's `fails` replaces.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import torch.distributed as dist

from ...runtime.pool.orders import Orders
from .handlers import Workshop

_init, _irecv = dist.init_process_group, dist.irecv


class NcclFails(Workshop):
    """NCCL cannot make its process group."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(orders)
        self._is_nccl = False
        dist.init_process_group = self._init
        dist.irecv = self._receive

    def _init(self, backend: str, **settings: Any) -> None:
        self._is_nccl = "nccl" in backend
        self.join() if self._is_nccl else None
        _init("gloo", **settings)

    def _receive(self, *arguments: Any, **settings: Any) -> Any:
        return self.receive(*arguments, **settings) if self._is_nccl else _irecv(*arguments, **settings)

    def join(self) -> None:
        raise RuntimeError("unhandled system error: no space in shared memory\nand more that only developers read")

    def receive(self, *arguments: Any, **settings: Any) -> Any:
        return _irecv(*arguments, **settings)


class NcclHangs(NcclFails):
    """The first message of NCCL never arrives at rank 1."""

    def join(self) -> None:
        pass

    def receive(self, *arguments: Any, **settings: Any) -> Any:
        if self._rank == 1:
            threading.Event().wait()
        return super().receive(*arguments, **settings)


class NcclKills(NcclHangs):
    """NCCL ends the process of rank 1, as a mapping beyond the end of shared memory does."""

    def receive(self, *arguments: Any, **settings: Any) -> Any:
        if self._rank == 1:
            os.kill(os.getpid(), signal.SIGBUS)
        return super().receive(*arguments, **settings)


class _Lost:
    def wait(self) -> None:
        """Returns at once, and nothing was received."""


class NcclLoses(NcclHangs):
    """NCCL says that it has received what it has not, as cards do that reach each other only by mistake."""

    def receive(self, *arguments: Any, **settings: Any) -> Any:
        return _Lost() if self._rank == 1 else super().receive(*arguments, **settings)


class NcclWorks(NcclHangs):
    """Nothing fails."""

    def receive(self, *arguments: Any, **settings: Any) -> Any:
        return _irecv(*arguments, **settings)
