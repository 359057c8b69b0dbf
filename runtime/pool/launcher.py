"""Starts one worker process; sends and receives its messages, and reads its log."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .messages import Message, decode
from .worker import Orders

log = logging.getLogger(__name__)

PACKAGE = __name__.removesuffix(".runtime.pool.launcher")
ROOT = Path(__file__).resolve().parents[2]
LOG_TAIL_LINES = 60
LOG_LINE_BYTES = 4096
JOIN_SECONDS = 5.0
# The longest wait for a killed process. It ends at once, unless it waits for a device or a disk, or has much memory to
# free.
END_SECONDS = 2.0


def _cores() -> int:
    """The number of cores this process may use, if the system tells; else the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(device: str, cpu_workers: int) -> dict[str, str]:
    """The environment of a worker: its share of the cores, loopback only, no allocator that breaks NCCL.

    `cpu_workers`: how many workers share the machine's cores.
    """
    environment = dict(os.environ)
    if device == "cpu":
        threads = str(max(1, _cores() // cpu_workers))
        environment.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    # NCCL runs out of memory beside the asynchronous allocator that ComfyUI may choose for itself.
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        kept = [item for item in environment.get(name, "").split(",") if item and "cudaMallocAsync" not in item]
        if kept:
            environment[name] = ",".join(kept)
        else:
            environment.pop(name, None)
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        environment.setdefault("NCCL_SOCKET_IFNAME", "lo")
    return environment


def _spawn(pipe: int, environment: dict[str, str]) -> subprocess.Popen:
    """Start a worker that inherits one end of a pipe, and nothing else of ours."""
    inherit: dict = {"pass_fds": (pipe,), "start_new_session": True}  # Ctrl+C in the terminal is ComfyUI's to handle
    if sys.platform == "win32":
        os.set_handle_inheritable(pipe, True)
        inherit = {
            "startupinfo": subprocess.STARTUPINFO(lpAttributeList={"handle_list": [pipe]}),
            "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP,
        }
    script = ROOT / "runtime" / "pool" / "bootstrap.py"
    return subprocess.Popen(
        [sys.executable, "-u", str(script), str(pipe)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        **inherit,
    )


def _kill_session(process: subprocess.Popen) -> None:
    """Kill a worker and the processes it started, such as those of torch.compile, which hold its log open."""
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


class WorkerProcess:
    """One worker: its process, our end of its pipe, and the last lines of its log.

    A thread passes its messages to `deliver(rank, message)`, with None when the pipe closes. Another thread sends:
    a stopped process does not read, and writing to a full pipe blocks.
    """

    def __init__(
        self,
        orders: Orders,
        cpu_workers: int,
        command_line: list[str],
        deliver: Callable[[int, Message | None], None],
    ) -> None:
        self.rank = orders.rank
        self.device = orders.device
        self.about: dict = {}
        self.state = "starting"
        self._tail: collections.deque[str] = collections.deque(maxlen=LOG_TAIL_LINES)
        self._connection, theirs = multiprocessing.Pipe(duplex=True)
        with theirs:
            self._process = _spawn(theirs.fileno(), worker_environment(orders.device, cpu_workers))
        bootstrap = {
            "package": PACKAGE,
            "root": str(ROOT),
            "sys_path": [str(Path(entry).resolve()) for entry in sys.path],
            "argv": command_line,
            "worker": asdict(orders),
        }
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outbox.put(json.dumps(bootstrap).encode())
        self._threads = [
            threading.Thread(target=target, args=arguments, name=f"worker {self.rank} {name}", daemon=True)
            for name, target, *arguments in (
                ("log", self._pump_log),
                ("messages", self._receive, deliver),
                ("orders", self._transmit),
            )
        ]
        for thread in self._threads:
            thread.start()
        self._reaper = threading.Thread(target=self._reap, name=f"worker {self.rank} end", daemon=True)

    @property
    def name(self) -> str:
        """The worker's name in messages to people."""
        return f"worker {self.rank} ({self.device})"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def status(self) -> dict:
        """This worker's entry in the pool's status."""
        state = self.state if self.exit_code() is None else "dead"
        return {"rank": self.rank, "device": self.device, "pid": self.pid, **self.about, "state": state}

    def send(self, data: bytes) -> None:
        """Queue one encoded message to be sent. A worker that is gone is reported by the thread that receives."""
        self._outbox.put(data)

    def exit_code(self) -> int | None:
        """The exit code of the process; None while it runs."""
        return self._process.poll()

    def log_tail(self) -> str:
        """The last lines the worker printed."""
        return "\n".join(self._tail)

    def kill(self) -> None:
        """End the process and the processes it started, without waiting. Any thread may call it."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                _kill_session(self._process)

    def join(self, seconds: float = END_SECONDS) -> None:
        """Wait until the killed process is gone, all it sent and printed is read, and its handles are closed.

        After `seconds` this goes on in the background.
        """
        self.state = "dead"
        if self._reaper.ident is None:
            self._reaper.start()
        self._reaper.join(timeout=max(0.0, seconds))
        if self._process.returncode is None:
            log.warning("%s, process %d, was killed, but the system has not ended it yet.", self.name, self.pid)

    def _reap(self) -> None:
        self._process.wait()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join(timeout=JOIN_SECONDS)
        self._connection.close()

    def _transmit(self) -> None:
        while (data := self._outbox.get()) is not None:
            try:
                self._connection.send_bytes(data)
            except OSError:
                log.debug("%s is gone", self.name)
                return

    def _receive(self, deliver: Callable[[int, Message | None], None]) -> None:
        while True:
            try:
                message = decode(self._connection.recv_bytes())
            except (EOFError, OSError):
                break
            except pickle.UnpicklingError:
                log.exception("%s sent what is no message", self.name)
                break
            deliver(self.rank, message)
        deliver(self.rank, None)

    def _pump_log(self) -> None:
        with self._process.stdout as pipe:
            for line in iter(lambda: pipe.readline(LOG_LINE_BYTES), b""):
                text = line.decode(errors="replace").rstrip()
                self._tail.append(text)
                log.info("[parallel %d] %s", self.rank, text)
