"""Forks the ranks of `distributed.launch`: a process with torch and ComfyUI imported, so that a rank starts at once.

The process has one thread when it forks and imports no file under test. It ends, and its ranks with it, when the
process that started it has ended.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


class RankServer:
    """The forking process and its ranks, as seen by `launch`. `codes` has the exit code of each, by process id; None
    while it runs."""

    def __init__(self, environment: dict[str, str], preloaded: Sequence[str]) -> None:
        """Starts the process, which imports the modules `preloaded`, with these environment variables."""
        self.connection, there = multiprocessing.Pipe()
        self.codes: dict[int, int | None] = {}
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(there.fileno()), *preloaded],
            env=environment,
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        there.close()

    def start(self, arguments: Sequence[Any], log: Path) -> int:
        """Forks a process that runs `distributed.run_rank(*arguments)`, with its output in `log`. Returns its id."""
        self.connection.send((arguments, str(log)))
        before = len(self.codes)
        while len(self.codes) == before:
            self.receive()
        return list(self.codes)[-1]

    def receive(self) -> None:
        """Waits for news of one rank. Raises EOFError when the server has died."""
        pid, code = self.connection.recv()
        self.codes[pid] = code

    def end_ranks(self) -> None:
        """Kills the ranks that still run."""
        self.connection.send(None)
        while None in self.codes.values():
            self.receive()

    def close(self) -> None:
        """Ends the process and its ranks."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        self.connection.close()


def _serve(connection: Connection) -> None:
    """Forks a rank per request; None ends those that run. Sends (process id, None) of each start and (process id, exit
    code) of each end."""
    fork = multiprocessing.get_context("fork")
    running: dict[int, multiprocessing.process.BaseProcess] = {}
    while True:
        for ready in wait([connection, *running]):
            if ready is not connection:
                process = running.pop(ready)
                process.join()
                connection.send((process.pid, process.exitcode))
            elif (request := connection.recv()) is None:
                for process in running.values():
                    process.kill()
            else:
                process = fork.Process(target=_rank, args=(connection, *request))
                process.start()
                running[process.sentinel] = process
                connection.send((process.pid, None))


def _rank(connection: Connection, arguments: Sequence[Any], log: str) -> None:
    connection.close()
    with open(log, "wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    from distributed import run_rank

    sys.exit(run_rank(*arguments))


if __name__ == "__main__":
    descriptor, *preloaded = sys.argv[1:]
    for name in preloaded:
        importlib.import_module(name)
    try:
        _serve(Connection(int(descriptor)))
    except (EOFError, ConnectionError):  # the process that started this one has ended
        os.killpg(os.getpid(), 9)
