"""A process that starts and ends workers for a pool, as a service on another machine would.

Usage: agent.py PORT FOLDER, with the pool's key in the environment. It has torch imported and forks the workers, which
connect to the pool by themselves. It knows nothing of the pack. When the pool is gone it ends what it has started.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import sys
from multiprocessing.connection import Client, Connection
from pathlib import Path

import torch.distributed  # so that every worker has it from its beginning

POLL_SECONDS = 0.02
TAIL_LINES = 60
BOOTSTRAP = Path(__file__).resolve().parents[2] / "runtime" / "pool" / "bootstrap.py"
CONNECT = "tests.pool.agent_launcher:WorkerSocket"


def main(port: int, folder: Path) -> None:
    assert torch.distributed.is_available()
    key = os.environ.pop("AGENT_KEY").encode()
    control = Client(("127.0.0.1", port), authkey=key)
    logs: dict[int, Path] = {}  # of the workers that run, by process id
    try:
        while True:
            if control.poll(POLL_SECONDS):
                match control.recv():
                    case "start", described:
                        log = folder / f"worker-{len(list(folder.iterdir()))}.log"
                        logs[start(described, port, key, log, control)] = log
                    case "kill", pid:
                        kill(pid)
                    case ("leave",):
                        raise EOFError
            for pid in list(logs):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    lines = logs.pop(pid).read_text(errors="replace").splitlines()
                    control.send((pid, os.waitstatus_to_exitcode(status), "\n".join(lines[-TAIL_LINES:])))
    except (EOFError, OSError):
        for pid in logs:
            kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)  # at once


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def start(described: dict, port: int, key: bytes, log: Path, control: Connection) -> int:
    """Fork a worker; returns its process id."""
    log.touch()
    if pid := os.fork():
        return pid
    control.close()
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    connection = Client(("127.0.0.1", port), authkey=key)
    connection.send(os.getpid())
    spec = importlib.util.spec_from_file_location("bootstrap", BOOTSTRAP)
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    bootstrap.become_worker(described, CONNECT, connection)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
