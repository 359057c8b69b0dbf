"""The worker's main loop: one process, one device, one rank.

The loop knows nothing of ComfyUI. A handler, named by the pool, rebuilds and runs the jobs.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
import torch.distributed as dist

from .errors import AgreedError
from .messages import (
    Abandon,
    Cancel,
    Done,
    Failed,
    Park,
    Parked,
    Prepare,
    Prepared,
    Progress,
    Ready,
    Run,
    Stop,
    decode,
    encode,
)

log = logging.getLogger(__name__)

# A collective ends when a peer ends, so this only bounds a peer that is alive and never comes.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Orders:
    """All a worker is told at its start. `handler` is "module:attribute" inside the pack, called with these orders."""

    rank: int
    world: int
    device: str
    backend: str
    rendezvous: str
    handler: str
    log_level: int = logging.INFO
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class JobControl:
    """What a running job may ask of the worker."""

    cancelled: Callable[[], bool]
    progress: Callable[[int, int, bytes], None]


class Handler(Protocol):
    """Rebuilds and runs jobs on one worker."""

    def prepare(self, payload: bytes) -> Any:
        """Rebuild a job. No collectives: an exception here leaves the pool usable."""

    def run(self, job: Any, control: JobControl) -> tuple[bytes, dict]:
        """Run a rebuilt job with the other ranks. Returns the result (rank 0) and this rank's ledger."""

    def park(self) -> int:
        """Give the device's memory back. Returns the bytes still held there."""

    def about(self) -> dict:
        """What the pool's status shows of this worker."""


class _Inbox:
    """Receives in a thread of its own, so that a cancel arrives while a job runs.

    The pipe closes however the parent ends, SIGKILL included, and the worker ends with it.
    """

    def __init__(self, connection: Connection) -> None:
        self.messages: queue.SimpleQueue = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self._connection = connection
        threading.Thread(target=self._receive, name="inbox", daemon=True).start()

    def _receive(self) -> None:
        while True:
            try:
                message = decode(self._connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            match message:
                case Cancel(job=job):
                    self.cancelled.add(job)
                case Stop():
                    os._exit(0)
                case _:
                    self.messages.put(message)


def _failed(job: int, error: Exception, agreed: bool) -> Failed:
    return Failed(job, type(error).__name__, str(error), "".join(traceback.format_exception(error)), agreed)


def main(connection: Connection, orders: Orders) -> None:
    """Load the handler, join the process group, then serve jobs until the pool ends."""
    inbox = _Inbox(connection)
    logging.basicConfig(level=orders.log_level, format="%(message)s", stream=sys.stderr)
    if orders.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(orders.device))
    package = __name__.removesuffix(".runtime.pool.worker")
    module, _, attribute = orders.handler.partition(":")
    handler: Handler = getattr(importlib.import_module(f"{package}.{module}"), attribute)(orders)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if orders.backend == "nccl" else "gloo",
        store=dist.FileStore(orders.rendezvous, orders.world),
        rank=orders.rank,
        world_size=orders.world,
        timeout=COLLECTIVE_TIMEOUT,
    )
    connection.send_bytes(encode(Ready(handler.about())))
    _serve(connection, inbox, handler)


def _serve(connection: Connection, inbox: _Inbox, handler: Handler) -> None:
    jobs: dict[int, Any] = {}
    while True:
        message = inbox.messages.get()
        match message:
            case Prepare(job=job, payload=payload):
                try:
                    jobs[job] = handler.prepare(payload)
                    answer = Prepared(job)
                except Exception as error:
                    answer = _failed(job, error, agreed=True)
            case Run(job=job):
                control = JobControl(
                    cancelled=lambda job=job: job in inbox.cancelled,
                    progress=lambda step, total, payload, job=job: connection.send_bytes(
                        encode(Progress(job, step, total, payload))
                    ),
                )
                try:
                    result, ledger = handler.run(jobs.pop(job), control)
                    answer = Done(job, result, ledger)
                except Exception as error:
                    answer = _failed(job, error, agreed=isinstance(error, AgreedError))
                inbox.cancelled.discard(job)
            case Abandon(job=job):
                jobs.pop(job, None)
                continue
            case Park():
                answer = Parked(handler.park())
            case _:
                raise AssertionError(f"a worker is never sent {type(message).__name__}")
        connection.send_bytes(encode(answer))
