"""Runs one function in several real processes joined by gloo: `launch(function, world, tmp_path, *arguments)`.

The processes find the function by its file and its name, so it must be at the top level of a test file. It is called as
`function(rank, world, *arguments)` with torch.distributed initialised; the results come back in a list, by rank.
Arguments and results are passed with torch.save. After a rank has failed the others get GRACE_S seconds to end.
In a test file: `from distributed import launch`.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

TESTS = Path(__file__).resolve().parents[1]
GRACE_S = 5.0


class RankFailed(AssertionError):
    """A rank raised, died or ran out of time; the message holds the traceback of the rank that failed first."""


def launch(
    function: Callable[..., Any], world: int, tmp_path: Path, *arguments: Any, timeout_s: float = 120.0
) -> list[Any]:
    """Calls `function(rank, world, *arguments)` on every rank and returns the results by rank.

    Raises RankFailed with the first failing rank's traceback. No process outlives the call.
    """
    folder = Path(mkdtemp(prefix=f"{function.__name__}_", dir=tmp_path))
    torch.save(arguments, folder / "arguments")
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    path = os.pathsep.join(filter(None, (str(TESTS), str(TESTS / "support"), os.environ.get("PYTHONPATH"))))
    environment = {"GLOO_SOCKET_IFNAME": "lo"} | dict(os.environ) | threads | {"PYTHONPATH": path}
    source = inspect.getsourcefile(inspect.unwrap(function))
    command = [sys.executable, __file__, source, function.__name__, str(folder), str(world), str(timeout_s)]
    logs = [(folder / f"log_{rank}").open("wb") for rank in range(world)]
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=log, stderr=subprocess.STDOUT)
        for rank, log in enumerate(logs)
    ]
    try:
        _wait(processes, timeout_s)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for log in logs:
            log.close()
    outcomes = [_outcome(folder, rank, process.returncode) for rank, process in enumerate(processes)]
    failures = sorted((outcome for outcome in outcomes if "error" in outcome), key=lambda outcome: outcome["time"])
    if failures:
        first = failures[0]["error"]
        raise RankFailed(f"{function.__name__}: {len(failures)} of {world} ranks failed; the first:\n{first}")
    return [outcome["result"] for outcome in outcomes]


def _wait(processes: list[subprocess.Popen[bytes]], timeout_s: float) -> None:
    """Waits until all processes have ended, but at most `timeout_s`, or GRACE_S seconds after the first failure."""
    deadline = time.monotonic() + timeout_s
    running = list(processes)
    while running and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            running[0].wait(timeout=0.2)
        running = [process for process in running if process.poll() is None]
        if any(process.returncode for process in processes):
            deadline = min(deadline, time.monotonic() + GRACE_S)


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


def _run_rank(file: str, name: str, folder: Path, world: int, timeout_s: float, rank: int) -> int:
    """Runs one rank; returns its exit code. The outcome is written before the rank leaves the group, so that the first
    failure is the one that is reported."""
    torch.set_num_threads(1)
    outcome: dict[str, Any]
    try:
        _load("conftest", str(TESTS / "conftest.py"))
        store = dist.FileStore(str(folder / "store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s))
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


if __name__ == "__main__":
    file, name, folder, world, timeout_s, rank = sys.argv[1:]
    sys.exit(_run_rank(file, name, Path(folder), int(world), float(timeout_s), int(rank)))
