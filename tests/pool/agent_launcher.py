"""A second Launcher, for tests: workers behind an agent process, reached by sockets, who meet through a TCP store.

Nothing of it is as in the first one: another process starts and ends the workers, they are forked, their exit codes and
last words come as messages, and their folder is not the pool's.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Set
from datetime import timedelta
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import torch
import torch.distributed as dist

from ...runtime.pool.bootstrap import describe
from ...runtime.pool.launcher import Deliver
from ...runtime.pool.local.environment import worker_environment
from ...runtime.pool.local.folder_store import FolderStore
from ...runtime.pool.mailbox import Mailbox
from ...runtime.pool.orders import Orders

AGENT = Path(__file__).with_name("agent.py")
ANSWER_S = 30.0
# torch's own words for "the store is somewhere else": no rank opens it
ELSEWHERE = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}


class WorkerSocket:
    """A PoolConnection by a socket, which closes when the pool ends. The agent cleans up."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, data: bytes) -> None:
        with self._sending:
            self._connection.send_bytes(data)

    def receive(self) -> bytes:
        return self._connection.recv_bytes()

    def clean_up(self) -> None:
        pass


class TwoFolders:
    """A Store whose sides have a folder each, and fetch what only the other one has."""

    def __init__(self, own: str, other: str) -> None:
        self.own, self._other = FolderStore(own), FolderStore(other)
        self.address = ("tests.pool.agent_launcher:TwoFolders", other, own)

    def put(self, tensor: torch.Tensor) -> str:
        return self.own.put(tensor)

    def get(self, key: str) -> torch.Tensor:
        with contextlib.suppress(OSError):
            return self.own.get(key)
        self.own.put(self._other.get(key))
        return self.own.get(key)

    def keep_only(self, keys: Set[str], weights: Set[str] = frozenset()) -> None:
        self.own.keep_only(keys, weights)


class TcpRendezvous:
    """A Rendezvous: a TCP store that lives in the pool's process."""

    def __init__(self) -> None:
        wait = timedelta(seconds=ANSWER_S)
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=wait, wait_for_workers=False)
        self.url = f"tcp://127.0.0.1:{self._store.port}"

    def met(self) -> None:
        pass

    def fault(self) -> str:
        return ""


class AgentWorker:
    """A WorkerHandle: a worker that the agent has forked."""

    def __init__(self, site: AgentSite, connection: Connection, orders: Orders, deliver: Deliver) -> None:
        self.pid = connection.recv()
        self._site = site
        self._mailbox = Mailbox(connection, orders, deliver)
        self._closed = False

    def send(self, data: bytes) -> None:
        self._mailbox.send(data)

    def exit_code(self) -> int | None:
        ended = self._site.ended(self.pid)
        return ended[0] if ended else None

    def log_tail(self) -> str:
        ended = self._site.ended(self.pid)
        return ended[1] if ended else ""

    def kill(self) -> None:
        if self.exit_code() is None:
            self._site.kill(self.pid)

    def join(self, seconds: float) -> None:
        if self._site.ended(self.pid, max(0.0, seconds)) and not self._closed:
            self._closed = True
            self._mailbox.close()


class AgentSite:
    """A Site: one agent, and what it has told of its workers."""

    def __init__(self, devices: tuple[str, ...], parent: Path) -> None:
        ours, theirs = (tempfile.mkdtemp(prefix=f"{whose}-", dir=parent) for whose in ("pool", "agent"))
        self.store = TwoFolders(ours, theirs)
        key = secrets.token_hex()
        self._listener = Listener(("127.0.0.1", 0), authkey=key.encode(), backlog=8)
        self._listener._listener._socket.settimeout(ANSWER_S)
        environment = {**worker_environment("cpu", len(devices)), **ELSEWHERE, "AGENT_KEY": key}
        command = [sys.executable, str(AGENT), str(self._listener.address[1]), theirs]
        self._agent = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        self._control = self._listener.accept()
        self._sending = threading.Lock()
        self._ended: dict[int, tuple[int, str]] = {}
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def rendezvous(self) -> TcpRendezvous:
        return TcpRendezvous()

    def start(self, orders: Orders, deliver: Deliver) -> AgentWorker:
        with self._sending:
            self._control.send(("start", describe(orders)))
        return AgentWorker(self, self._listener.accept(), orders, deliver)

    def close(self) -> None:
        with self._sending:
            self._control.send(("leave",))
        self._agent.wait(ANSWER_S)
        self._reader.join()
        self._listener.close()
        self._control.close()
        shutil.rmtree(self.store.own.directory)

    def kill(self, pid: int) -> None:
        with self._sending:
            self._control.send(("kill", pid))

    def ended(self, pid: int, seconds: float = 0.0) -> tuple[int, str] | None:
        """The exit code and last words of a worker, as soon as they are known, within `seconds`."""
        with self._news:
            self._news.wait_for(lambda: pid in self._ended, seconds)
            return self._ended.get(pid)

    def _read(self) -> None:
        while True:
            try:
                pid, code, tail = self._control.recv()
            except (EOFError, OSError):
                return
            with self._news:
                self._ended[pid] = (code, tail)
                self._news.notify_all()


class AgentLauncher:
    """A Launcher: every site is an agent with folders inside `parent`."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def open(self, devices: tuple[str, ...]) -> AgentSite:
        return AgentSite(devices, self._parent)
