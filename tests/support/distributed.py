"""Runs one function in several real processes joined by gloo: `launch(function, world, tmp_path, *arguments)`.

The processes find the function by its file and its name, so it must be at the top level of a test file. It is called as
`function(rank, world, *arguments)` with torch.distributed initialised; the results come back in a list, by rank.
Arguments and results are passed with torch.save. After a rank has failed the others get GRACE_S seconds to end.

Each rank is a new process, forked from a server that has torch and ComfyUI imported (rank_server.py). There are two
servers, so that neighbouring ranks hash, and so iterate over sets, in different orders, as separate programs do.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from device import DEVICE
from rank_server import RankServer

TESTS = Path(__file__).resolve().parents[1]
GRACE_S = 5.0
SERVERS = 2
_lasting: dict[tuple[str, ...], list[RankServer]] = {}


class RankFailed(AssertionError):
    """A rank raised, died or ran out of time; the message holds the traceback of the rank that failed first."""


def launch(
    function: Callable[..., Any],
    world: int,
    tmp_path: Path,
    *arguments: Any,
    timeout_s: float = 120.0,
    imports: tuple[str, ...] = (),
) -> list[Any]:
    """Calls `function(rank, world, *arguments)` on every rank and returns the results by rank.

    `imports`: modules that take long to import, which the servers of these ranks import once for all their launches.
    Raises RankFailed with the first failing rank's traceback. No rank outlives the call.
    """
    folder = Path(mkdtemp(prefix=f"{function.__name__}_", dir=tmp_path))
    torch.save(arguments, folder / "arguments")
    source = inspect.getsourcefile(inspect.unwrap(function))
    environment = _environment()
    common = (environment, source, function.__name__, folder, world, timeout_s)
    with _servers(world, environment, imports) as servers:
        pids = [server.start((*common, rank), folder / f"log_{rank}") for rank, server in enumerate(servers)]
        _wait(servers, time.monotonic() + timeout_s)
        for server in set(servers):
            server.end_ranks()
        codes = [server.codes.pop(pid) for server, pid in zip(servers, pids)]
    outcomes = [_outcome(folder, rank, code) for rank, code in enumerate(codes)]
    failures = sorted((outcome for outcome in outcomes if "error" in outcome), key=lambda outcome: outcome["time"])
    if failures:
        first = failures[0]["error"]
        raise RankFailed(f"{function.__name__}: {len(failures)} of {world} ranks failed; the first:\n{first}")
    return [outcome["result"] for outcome in outcomes]


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    kernels = {"TRITON_INTERPRET": "1"} if DEVICE == "cpu" else {}  # for tests on a simulated card
    return {"GLOO_SOCKET_IFNAME": "lo"} | dict(os.environ) | threads | kernels | {"PYTHONPATH": path}


@contextmanager
def _servers(world: int, environment: dict[str, str], imports: tuple[str, ...]) -> Iterator[list[RankServer]]:
    """The server of each rank; all are ended, with their ranks, by an exception such as KeyboardInterrupt.

    CUDA does not work in a process forked from one that has used it, as importing ComfyUI may. On a card each rank gets
    a server of its own that has imported nothing.
    """
    servers = _lasting.setdefault(imports, []) if DEVICE == "cpu" else []
    if DEVICE == "cpu":
        modules = ("conftest", "torch.distributed", *(("comfy.sd",) if "COMFYUI_PATH" in os.environ else ()), *imports)
        servers += [RankServer(environment, modules) for _ in range(min(world, SERVERS) - len(servers))]
    else:
        servers += [RankServer(environment, ()) for _ in range(world)]
    finished = False
    try:
        yield [servers[rank % len(servers)] for rank in range(world)]
        finished = True
    finally:
        if not finished or DEVICE != "cpu":
            while servers:
                servers.pop().close()


def _wait(servers: Sequence[RankServer], deadline: float) -> None:
    """Waits until all ranks have ended, but at most until `deadline`, or GRACE_S seconds after the first failure."""
    connections = {server.connection: server for server in servers}
    failed = False
    while any(None in server.codes.values() for server in servers):
        ready = wait(connections, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            return
        for connection in ready:
            connections[connection].receive()
        if not failed and any(code for server in servers for code in server.codes.values()):
            failed, deadline = True, min(deadline, time.monotonic() + GRACE_S)


def _outcome(folder: Path, rank: int, code: int) -> dict[str, Any]:
    file = folder / f"outcome_{rank}"
    if file.exists():
        return torch.load(file, weights_only=False)
    said = (folder / f"log_{rank}").read_text(errors="replace")[-4000:]
    story = f"rank {rank} ended with code {code} and gave no result (killed by the launcher if -9); it said:\n{said}"
    return {"error": story, "time": float("inf")}


def _load(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_rank(
    environment: dict[str, str], file: str, name: str, folder: Path, world: int, timeout_s: float, rank: int
) -> int:
    """Runs one rank; returns its exit code. The outcome is written before the rank leaves the group, so that the first
    failure is the one that is reported."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    outcome: dict[str, Any]
    try:
        importlib.import_module("conftest")
        store = dist.FileStore(str(folder / "store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s))
        dist.barrier()  # all are connected before one may leave
        arguments = torch.load(folder / "arguments", weights_only=False)
        outcome = {"result": getattr(_load("test_under_launch", file), name)(rank, world, *arguments)}
    except Exception:
        outcome = {"error": f"rank {rank}: {traceback.format_exc()}", "time": time.time()}
    partial = folder / f"partial_{rank}"
    torch.save(outcome, partial)
    partial.rename(folder / f"outcome_{rank}")
    if dist.is_initialized():
        dist.destroy_process_group()
    return int("error" in outcome)
