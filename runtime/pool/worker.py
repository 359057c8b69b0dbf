"""The worker's main loop: one process, one device, one rank.

The loop knows nothing of ComfyUI. A handler, named by the pool, rebuilds and runs the jobs.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.distributed as dist

from .bootstrap import part_of
from .connect import connect, pass_around
from .errors import AgreedError
from .launcher import PoolConnection
from .messages import (
    Abandon,
    Cancel,
    Done,
    Failed,
    Park,
    Parked,
    Ping,
    Pong,
    Predicted,
    Prepare,
    Prepared,
    Progress,
    Ready,
    Renew,
    Renewed,
    Run,
    decode,
    encode,
)
from .orders import Orders
from .rendezvous import join_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobControl:
    """Functions for a running job: whether it was cancelled, and how to report steps and the predictions of calls."""

    cancelled: Callable[[], bool]
    progress: Callable[[int, int, bytes], None]
    predicted: Callable[[int, bytes], None]


class JobHandler(Protocol):
    """Rebuilds and runs jobs on one worker.

    A handler may have three more methods:
    - `probe() -> dict` measures the link between the ranks, all together; all return the same plain data. It is called
      once, after the process group is made, if there is more than one rank.
    - `renew()` cleans up after a job that the ranks did not end together: the default process group is new, all others
      are gone, and the handler must restore any other state that the job left behind.
    - `tidy()` frees the memory of a job that all ranks ended together, by a cancel too, when nothing refers to the job
      any more.
    """

    def prepare(self, payload: bytes) -> Any:
        """Rebuild a job, without collectives: an exception here leaves the pool usable."""

    def run(self, job: Any, control: JobControl) -> tuple[bytes, dict]:
        """Run a rebuilt job with the other ranks. Returns the result (rank 0) and this rank's ledger."""

    def park(self, nbytes: int | None = None) -> int:
        """Free so much of the device's memory, or all of it (None). Returns the bytes still held there."""

    def about(self) -> dict:
        """This worker's details for the pool's status."""


class _Inbox:
    """Receives messages in its own thread, so that a cancel arrives and a Ping is answered while a job runs.

    When the pool is gone, the worker cleans up and exits, whatever it is doing.
    """

    def __init__(self, connection: PoolConnection) -> None:
        self.messages: queue.SimpleQueue = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self._connection = connection
        threading.Thread(target=self._receive, name="inbox", daemon=True).start()

    def _receive(self) -> None:
        try:
            while True:
                match decode(self._connection.receive()):
                    case Cancel(job=job):
                        self.cancelled.add(job)
                    case Ping():
                        self._connection.send(encode(Pong()))
                    case message:
                        self.messages.put(message)
        except (EOFError, OSError):
            log.debug("The pool is gone.")
        except Exception:  # without this thread the worker would outlive the pool
            traceback.print_exc()
        finally:
            self._connection.clean_up()
            os._exit(1)


def main(connection: PoolConnection, orders: Orders) -> None:
    """Load the handler, join the process group, then serve jobs until the pool ends."""
    inbox = _Inbox(connection)
    faulthandler.enable()
    logging.basicConfig(level=orders.log_level, format="%(message)s", stream=sys.stderr)
    if orders.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(orders.device))
    handler: JobHandler = part_of(__name__.removesuffix(".runtime.pool.worker"), orders.handler)(orders)
    gc.collect()
    gc.freeze()  # imported objects stay for good; without them, later garbage collections are fast
    connection.send(_begin(handler, connection, orders))
    _serve(connection, inbox, handler, orders)


def _begin(handler: JobHandler, connection: PoolConnection, orders: Orders) -> bytes:
    def late(error: Exception) -> None:
        story = "".join(traceback.format_exception(error))
        connection.send(encode(Failed(0, type(error).__name__, str(error), story, agreed=False, about={})))

    try:
        connect(orders, late)
        link = handler.probe() if orders.world > 1 and hasattr(handler, "probe") else None
        return encode(Ready(handler.about(), link))
    except Exception as error:  # leaving would close the peers' connections before the pool sees why
        return _failed(handler, 0, error, agreed=False)


def _serve(connection: PoolConnection, inbox: _Inbox, handler: JobHandler, orders: Orders) -> None:
    jobs: dict[int, Any] = {}
    while True:
        message = inbox.messages.get()
        match message:
            case Prepare():
                answer = _prepare(handler, message, jobs)
            case Run(job=job):
                control = JobControl(
                    cancelled=lambda job=job: job in inbox.cancelled,
                    progress=lambda step, total, payload, job=job: connection.send(
                        encode(Progress(job, step, total, payload))
                    ),
                    predicted=lambda call, payload, job=job: connection.send(encode(Predicted(job, call, payload))),
                )
                answer = _run(handler, job, jobs, control)
                inbox.cancelled.discard(job)
            case Abandon(job=job):
                jobs.pop(job, None)
                continue
            case Renew(rendezvous=rendezvous):
                answer = _renew(handler, orders, rendezvous)
            case Park(nbytes=nbytes):
                answer = encode(Parked(handler.park(nbytes)))
            case _:
                raise AssertionError(f"a worker is never sent {type(message).__name__}")
        connection.send(answer)


def _prepare(handler: JobHandler, message: Prepare, jobs: dict[int, Any]) -> bytes:
    try:
        jobs[message.job] = handler.prepare(message.payload)
        return encode(Prepared(message.job))
    except Exception as error:
        return _failed(handler, message.job, error, agreed=True)


def _run(handler: JobHandler, job: int, jobs: dict[int, Any], control: JobControl) -> bytes:
    ended = _end(handler, job, jobs, control)
    if isinstance(ended, Failed) and not ended.agreed:
        return encode(ended)  # `renew` comes next
    try:
        if hasattr(handler, "tidy"):
            handler.tidy()
        return encode(replace(ended, about=handler.about()))
    except Exception as error:
        return _failed(handler, job, error, agreed=False)


def _end(handler: JobHandler, job: int, jobs: dict[int, Any], control: JobControl) -> Done | Failed:
    """Runs the job. When this returns, nothing refers to the job any more, not even the traceback of an error."""
    try:
        result, ledger = handler.run(jobs.pop(job), control)
        return Done(job, result, ledger, {})
    except (Exception, SystemExit) as error:  # leaving would close the peers' connections before the pool sees why
        return _failure(handler, job, error, agreed=isinstance(error, AgreedError))


def _renew(handler: JobHandler, orders: Orders, rendezvous: str) -> bytes:
    try:
        dist.destroy_process_group()
        join_all(rendezvous, orders.rank, orders.world, orders.backend)
        if hasattr(handler, "renew"):
            handler.renew()
        pass_around(torch.device(orders.device))  # an error may have left a device unusable, which its next use shows
        return encode(Renewed())
    except Exception as error:
        return _failed(handler, 0, error, agreed=False)


def _failed(handler: JobHandler, job: int, error: BaseException, agreed: bool) -> bytes:
    return encode(_failure(handler, job, error, agreed))


def _failure(handler: JobHandler, job: int, error: BaseException, agreed: bool) -> Failed:
    story = "".join(traceback.format_exception(error))
    return Failed(job, type(error).__name__, str(error), story, agreed, handler.about())
