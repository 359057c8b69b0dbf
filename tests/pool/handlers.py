"""What the workers of these tests run: handlers without ComfyUI, whose jobs misbehave on request.

A job is JSON: {"job": the name of a function below, "arguments": its keyword arguments}. Each rank calls it with its
rank and a JobControl; what it returns must be JSON and becomes the rank's ledger {"answer": ...}; rank 0's is also
the result.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from ...runtime.pool import rendezvous
from ...runtime.pool.errors import Cancelled, Refused
from ...runtime.pool.orders import Orders
from ...runtime.pool.probe import measure_link, slowest
from ...runtime.pool.worker import JobControl

ON_THEIR_WAY: list[Any] = []


def all_reduced(value: float) -> float:
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.item()


def leave_for_rank_1(number: torch.Tensor) -> None:
    """A message that nobody waits for here."""
    ON_THEIR_WAY.append((number, dist.isend(number, 1)))


def never_comes() -> None:
    """Waits for a peer that is busy elsewhere."""
    all_reduced(0.0)
    raise AssertionError("the collective ended")


def add(rank: int, control: JobControl, value: float = 1.0) -> float:
    return all_reduced(value * (rank + 1))


def count(rank: int, control: JobControl, steps: int, size: int = 0) -> int:
    """Rank 0 reports every step; all steps hold a collective."""
    for step in range(steps):
        all_reduced(1.0)
        if rank == 0:
            control.progress(step, steps, bytes([step % 256]) * size)
    return steps


def until_cancelled(rank: int, control: JobControl) -> None:
    """Every step the ranks share rank 0's mind, as real jobs do; the first step is reported."""
    step = 0
    while not all_reduced(float(rank == 0 and control.cancelled())):
        if rank == step == 0:
            control.progress(step, 1, b"running")
        step += 1
    raise Cancelled("The run was cancelled.")


def wait_for(release: str) -> None:
    """As long as a model call that nothing interrupts; it ends when the file is there."""
    while not Path(release).exists():
        threading.Event().wait(0.02)


def long_call(rank: int, control: JobControl, release: str) -> None:
    """All ranks are in one call until `release` is there; only then do they share rank 0's mind."""
    if rank == 0:
        control.progress(0, 1, b"running")
    wait_for(release)
    until_cancelled(rank, control)


def regroup(rank: int, control: JobControl, seconds: float) -> None:
    """Rank 0 removes the folder by which the ranks find each other, then all make another group."""
    rendezvous.CONNECT_TIMEOUT = timedelta(seconds=seconds)
    _get_default_store().set_timeout(rendezvous.CONNECT_TIMEOUT)
    if rank == 0:
        control.progress(0, 1, b"running")
    all_reduced(1.0)
    rendezvous.new_group([0, 1])


def deaf(rank: int, control: JobControl) -> None:
    """Never looks at the cancel."""
    control.progress(0, 1, b"running")
    threading.Event().wait()


def fail(rank: int, control: JobControl, on: int, message: str) -> None:
    """One rank raises alone, the others wait for it in a collective."""
    if rank == on:
        raise ValueError(message)
    never_comes()


def fail_everywhere(rank: int, control: JobControl, message: str, left: float) -> None:
    """Every rank raises, none knows of the others, and rank 0 leaves a message on its way to rank 1."""
    all_reduced(1.0)
    if rank == 0:
        leave_for_rank_1(torch.tensor([left]))
    raise ValueError(message)


def pass_on(rank: int, control: JobControl, value: float) -> float:
    """What rank 1 has received from rank 0, on both."""
    number = torch.tensor([value])
    if rank == 0:
        leave_for_rank_1(number)
    else:
        dist.recv(number, 0)
    return number.item()


def refuse(rank: int, control: JobControl, message: str) -> None:
    """All ranks raise at the same place."""
    all_reduced(1.0)
    raise Refused(message)


def end(rank: int, control: JobControl, on: int, how: str) -> None:
    """One rank's process ends, the others wait for it in a collective."""
    if rank == on:
        print("these are the last words", flush=True)
        if how == "sys.exit":
            sys.exit("enough for today")
        if how == "slowly":  # the peer's collective fails before the pool can see why
            dist.destroy_process_group()
            threading.Event().wait(0.2)
            os._exit(3)
        if how == "crash":
            ctypes.string_at(0)
        os.kill(os.getpid(), signal.Signals[how])
    never_comes()


def wait_in_collective(rank: int, control: JobControl) -> None:
    """Rank 0 says it is there and waits for no collective; all others sit in one."""
    control.progress(0, 1, str(rank).encode())
    if rank == 0:
        threading.Event().wait()
    never_comes()


def say(rank: int, control: JobControl, text: str, times: int = 1) -> None:
    for _ in range(times):
        print(f"{text} of rank {rank} on stdout", flush=True)
        print(f"{text} of rank {rank} on stderr", file=sys.stderr, flush=True)


def rude(rank: int, control: JobControl) -> Any:
    """An answer that is not plain data."""
    return torch.zeros(1)


def start_child(rank: int, control: JobControl) -> int:
    """A process that holds the worker's log open, as those of torch.compile do."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid


def inspect(rank: int, control: JobControl) -> dict:
    """What a worker finds in its process."""
    all_reduced(1.0)
    sockets = psutil.Process().net_connections("inet")
    return {
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
        "argv": sys.argv,
        "listening": [list(socket.laddr) for socket in sockets if not socket.raddr],
        "connected": [list(socket.raddr) for socket in sockets if socket.raddr],
    }


def pid_of(rank: int, control: JobControl) -> int:
    return os.getpid()


JOBS: dict[str, Callable[..., Any]] = {job.__name__: job for job in (
    add, count, until_cancelled, long_call, regroup, deaf, fail, fail_everywhere, pass_on, refuse, end,
    wait_in_collective, say, rude, start_child, inspect, pid_of
)}  # fmt: skip


class Job(dict):
    """A rebuilt job; a dict that can be counted."""


class Workshop:
    """Runs the jobs above; `about` counts the rebuilt jobs there still are and what it pretends to hold."""

    def __init__(self, orders: Orders) -> None:
        self._rank = orders.rank
        self._held = 0
        self._jobs: list[weakref.ref] = []

    def prepare(self, payload: bytes) -> Job:
        job = Job(json.loads(payload))
        if job.get("prepare_fails_on") == self._rank:
            raise FileNotFoundError(job["message"])
        if job.get("prepare_never_ends_on") == self._rank:
            threading.Event().wait()
        if job.get("prepare_stops_on") == self._rank:
            os.kill(os.getpid(), signal.SIGSTOP)
        if "prepare_waits_for" in job:
            wait_for(job["prepare_waits_for"])
        self._jobs.append(weakref.ref(job))
        return job

    def run(self, job: Job, control: JobControl) -> tuple[bytes, dict]:
        self._held = 4096
        answer = JOBS[job["job"]](self._rank, control, **job["arguments"])
        return json.dumps(answer, default=str).encode() if self._rank == 0 else b"", {"answer": answer}

    def park(self, nbytes: int | None = None) -> int:
        self._held = 0 if nbytes is None else max(0, self._held - nbytes)
        return self._held

    def probe(self) -> None:
        """Nothing to measure; a worker that is asked to stops here."""
        if os.environ.get("TEST_PROBE_STOPS_ON") == str(self._rank):
            os.kill(os.getpid(), signal.SIGSTOP)

    def about(self) -> dict:
        return {"device_bytes": self._held, "jobs": sum(job() is not None for job in self._jobs)}


class NeverReady:
    """A handler whose start does not end on rank 1."""

    def __init__(self, orders: Orders) -> None:
        if orders.rank == 1:
            print("rank 1 is thinking", flush=True)
            threading.Event().wait()


class CannotPark(Workshop):
    """A handler that fails when it is parked."""

    def park(self, nbytes: int | None = None) -> int:
        raise OSError("the car park is full")


class CannotRenew(Workshop):
    """A handler whose device is of no more use after a failure, on rank 1."""

    def renew(self) -> None:
        if self._rank == 1:
            raise RuntimeError("the device is broken")


class Surveyor(Workshop):
    """Measures the link, and a number that differs by rank until the ranks have agreed; `about` tells both."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(orders)
        self._measured: dict | None = None

    def probe(self) -> dict:
        self._measured = {**measure_link(torch.device("cpu"))._asdict(), **slowest({"rank": self._rank})}
        return self._measured

    def about(self) -> dict:
        return {**super().about(), "measured": self._measured, "own": self._rank}


class FailsInProbe(Workshop):
    """One rank does not come back from the probe; the others wait for it in a collective."""

    def probe(self) -> dict:
        if self._rank == 1:
            print("rank 1 looks at the link", flush=True)
            self.leave()
        never_comes()
        return {}

    def leave(self) -> None:
        raise ValueError("the cable is cut")


class DiesInProbe(FailsInProbe):
    """The process of one rank ends there."""

    def leave(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class DiesSlowlyInProbe(FailsInProbe):
    """The other's collective fails before the pool can see why."""

    def leave(self) -> None:
        dist.destroy_process_group()
        threading.Event().wait(0.2)
        os._exit(3)


class HangsInProbe(FailsInProbe):
    """One rank stays there."""

    def leave(self) -> None:
        threading.Event().wait()
