"""One worker process on this machine: started, sent its orders, watched and killed."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..bootstrap import describe
from ..launcher import Deliver
from ..mailbox import JOIN_SECONDS, Mailbox
from ..orders import Orders

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("start.py")
LOG_TAIL_LINES = 60
LOG_LINE_BYTES = 4096


class WorkerProcess:
    """A WorkerHandle: the process, our end of its pipe, and the last lines of its log.

    `spawn` starts a process that inherits the pipe whose handle it is given, with these environment variables.
    """

    def __init__(
        self,
        orders: Orders,
        directory: Path,
        environment: dict[str, str],
        deliver: Deliver,
        spawn: Callable[[int, dict[str, str]], subprocess.Popen] | None = None,
    ) -> None:
        self._orders = orders
        self._tail: collections.deque[str] = collections.deque(maxlen=LOG_TAIL_LINES)
        ours, theirs = multiprocessing.Pipe(duplex=True)
        with theirs:
            self._process = (spawn or _spawn)(theirs.fileno(), environment)
        self._mailbox = Mailbox(ours, orders, deliver)
        self._mailbox.send(json.dumps({**describe(orders), "directory": str(directory)}).encode())
        self._log = threading.Thread(target=self._pump_log, name=f"{orders.name} log", daemon=True)
        self._log.start()
        self._reaper = threading.Thread(target=self._reap, name=f"{orders.name} end", daemon=True)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, data: bytes) -> None:
        """Queue one encoded message to be sent."""
        self._mailbox.send(data)

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

    def join(self, seconds: float) -> None:
        """Wait until the killed process is gone, all it sent and printed is read, and its handles are closed.

        After `seconds` this goes on in the background.
        """
        if self._reaper.ident is None:
            self._reaper.start()
        self._reaper.join(timeout=max(0.0, seconds))
        if self._process.returncode is None:
            name, pid = self._orders.name, self.pid
            log.warning("%s, process %d, was killed, but the system has not ended it yet.", name, pid)

    def _reap(self) -> None:
        self._process.wait()
        self._log.join(timeout=JOIN_SECONDS)
        self._mailbox.close()

    def _pump_log(self) -> None:
        with self._process.stdout as pipe:
            for line in iter(lambda: pipe.readline(LOG_LINE_BYTES), b""):
                text = line.decode(errors="replace").rstrip()
                self._tail.append(text)
                log.info("[parallel %d] %s", self._orders.rank, text)


def _spawn(pipe: int, environment: dict[str, str]) -> subprocess.Popen:
    """Start a worker that inherits one end of a pipe, and nothing else of ours."""
    inherit: dict = {"pass_fds": (pipe,), "start_new_session": True}  # Ctrl+C in the terminal is ComfyUI's to handle
    if sys.platform == "win32":
        os.set_handle_inheritable(pipe, True)
        inherit = {
            "startupinfo": subprocess.STARTUPINFO(lpAttributeList={"handle_list": [pipe]}),
            "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP,
        }
    return subprocess.Popen(
        [sys.executable, "-u", str(SCRIPT), str(pipe)],
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
