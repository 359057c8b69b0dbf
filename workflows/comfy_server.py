"""Starts and stops a real ComfyUI server with this pack as a custom node, in a folder of its own.

with ComfyServer(python, comfyui, pack, folder) as server:
    print(server.url)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

PACK_NAME = "ComfyUI-CompactParallel"
PACK_NODE = "CompactParallelModel"
_POLL_SECONDS = 0.1
_LOG_LINES = 12


class ServerError(Exception):
    """The server did not start; the message says why, with the end of its log."""


def free_port(port: int = 0) -> int:
    """A free loopback port: `port`, or any if it is 0. Raises ServerError if `port` is taken."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(f"Port {port} is taken by another program; choose another one.") from error
        return probe.getsockname()[1]


class ComfyServer:
    """A ComfyUI server process on a loopback port; a context manager.

    Args:
        python, comfyui: the interpreter and ComfyUI's folder.
        pack: this repository, made visible to ComfyUI by a link.
        folder: ComfyUI's base directory (models, input, output, user, temp); must exist.
        log: file for the server's output; `folder`/comfyui.log by default.
        port: any free one by default; raises ServerError if it is taken.
        threads: number of torch threads in the server, set by OMP_NUM_THREADS; workers inherit the variable.
        arguments: additional command-line arguments of ComfyUI; ("--cpu",) by default.
        api_nodes: whether to load the nodes that call paid services on the internet.
        environ: additional environment variables.
    """

    def __init__(
        self,
        python: Path | str,
        comfyui: Path,
        pack: Path,
        folder: Path,
        *,
        log: Path | None = None,
        port: int = 0,
        threads: int = 1,
        arguments: Sequence[str] = ("--cpu",),
        api_nodes: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port(port)
        self.log = log or folder / "comfyui.log"
        self.output = folder / "output"
        self._pack = pack
        self._folder = folder
        self._environ = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "PYTHONUNBUFFERED": "1",
            **(environ or {}),
        }
        self._command = [
            str(python),
            str(comfyui / "main.py"),
            *("--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(folder)),
            *("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME),
            *(() if api_nodes else ("--disable-api-nodes",)),
            *("--database-url", "sqlite:///:memory:", "--log-stdout"),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("The ComfyUI server is not running.")
        return self._process

    def start(self, timeout: float = 180.0) -> None:
        """Starts the server and waits until it answers and knows this pack's nodes. Raises ServerError."""
        custom_nodes = self._folder / "custom_nodes"
        custom_nodes.mkdir(parents=True, exist_ok=True)
        link = custom_nodes / PACK_NAME
        if not link.is_symlink():
            link.symlink_to(self._pack, target_is_directory=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(timeout)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, timeout: float) -> None:
        for _ in range(round(timeout / _POLL_SECONDS)):
            if self._ended_within(_POLL_SECONDS):
                raise ServerError(f"ComfyUI ended while starting; its log ends with\n{self.log_end()}")
            try:
                self.get("/system_stats")
                break
            except OSError:
                continue
        else:
            raise ServerError(f"ComfyUI did not answer within {timeout:.0f} s; its log ends with\n{self.log_end()}")
        if PACK_NODE not in self.get(f"/object_info/{PACK_NODE}"):
            raise ServerError(f"ComfyUI could not load this pack; see {self.log}, which ends with\n{self.log_end()}")

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._running.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def get(self, path: str) -> Any:
        """The JSON answer to GET `path`. Raises OSError while the server does not answer."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def log_end(self) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def stop(self) -> None:
        """Ends the server and all processes of its group: asks first, and kills them after at most 10 s. Can be called
        twice."""
        if self._process is None:
            return
        self._signal_group(signal.SIGTERM)
        self._ended_within(10)
        self._signal_group(getattr(signal, "SIGKILL", signal.SIGTERM))
        self._process.wait()
        self._process = None

    def _signal_group(self, number: int) -> None:
        if os.name == "nt":
            self._running.terminate()
            return
        try:
            os.killpg(self._running.pid, number)
        except ProcessLookupError:
            return

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
