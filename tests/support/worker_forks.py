"""Forks the workers of pools in tests from a process that has torch and ComfyUI imported: they start in half a second.

A worker started so is a process like any other, with a pipe, a session and an environment of its own; only what it
would import first is there already. There are two such processes, so that neighbouring ranks hash, and so iterate over sets,
in different orders, as separate programs do. Tests of starting itself, and servers, start workers as users do.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path

PRELOADED = ("torch.distributed", "comfy.model_management", "comfy.samplers", "comfy.sd", "comfy.controlnet")
ANSWER_S = 60.0


class WorkerForks:
    """The forking process, as seen by the tests. Any thread may call it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._connection, there = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(there.fileno())],
            env=environment,
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        there.close()
        self._codes: dict[int, int] = {}
        self._started: list[int] = []
        self._news = threading.Condition()
        self._asking = threading.Lock()
        threading.Thread(target=self._read, name="worker forks", daemon=True).start()

    def spawn(self, pipe: int, environment: dict[str, str]) -> ForkedProcess:
        """Forks a worker that inherits `pipe`. See WorkerProcess."""
        out, theirs = os.pipe()
        with self._asking:
            self._connection.send(environment)
            for handle in (pipe, theirs):
                send_handle(self._connection, handle, self._process.pid)
            os.close(theirs)
            with self._news:
                if not self._news.wait_for(lambda: self._started, ANSWER_S):
                    raise TimeoutError("no worker was forked")
                return ForkedProcess(self, self._started.pop(), out)

    def code(self, pid: int, seconds: float | None = 0.0) -> int | None:
        """The exit code of a worker, as soon as it is known, within `seconds` (None: however long it takes)."""
        with self._news:
            self._news.wait_for(lambda: pid in self._codes, seconds)
            return self._codes.get(pid)

    def close(self) -> None:
        """Ends the process; its workers end as their pools do."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()

    def _read(self) -> None:
        while True:
            try:
                pid, code = self._connection.recv()
            except (EOFError, OSError):
                return
            with self._news:
                if code is None:
                    self._started.append(pid)
                else:
                    self._codes[pid] = code
                self._news.notify_all()


class ForkedProcess:
    """A worker, with the part of subprocess.Popen that a WorkerProcess uses."""

    def __init__(self, forks: WorkerForks, pid: int, out: int) -> None:
        self._forks, self.pid = forks, pid
        self.stdout = os.fdopen(out, "rb")

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._forks.code(self.pid)

    def wait(self) -> int:
        return self._forks.code(self.pid, None)


def _serve(connection: Connection) -> None:
    """Forks a worker per request. Sends (process id, None) of each start and (process id, exit code) of each end."""
    fork = multiprocessing.get_context("fork")
    running: dict[int, multiprocessing.process.BaseProcess] = {}
    while True:
        for ready in wait([connection, *running]):
            if ready is not connection:
                process = running.pop(ready)
                process.join()
                connection.send((process.pid, process.exitcode))
                continue
            environment = connection.recv()
            handles = [recv_handle(connection) for _ in range(2)]
            process = fork.Process(target=_worker, args=(connection, *handles, environment))
            process.start()
            running[process.sentinel] = process
            connection.send((process.pid, None))
            for handle in handles:
                os.close(handle)


def _worker(connection: Connection, pipe: int, out: int, environment: dict[str, str]) -> None:
    """Becomes the worker that start.py makes of a new process."""
    connection.close()
    os.setsid()
    for stream in (1, 2):
        os.dup2(out, stream)
    os.close(out)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)
    os.environ.clear()
    os.environ.update(environment)
    sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    script = Path(__file__).resolve().parents[2] / "runtime" / "pool" / "local" / "start.py"
    sys.argv = [str(script), str(pipe)]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    descriptor = int(sys.argv[1])
    sys.argv = ["main.py", "--cpu"]
    sys.path[0] = os.environ["COMFYUI_PATH"]
    importlib.import_module("comfy.options").enable_args_parsing()
    for name in PRELOADED:
        importlib.import_module(name)
    try:
        _serve(Connection(descriptor))
    except (EOFError, ConnectionError):  # the process that started this one has ended
        os.killpg(os.getpid(), 9)
