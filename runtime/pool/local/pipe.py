"""A worker's end of the pipe to the pool that started it."""

from __future__ import annotations

import os
import shutil
import threading
from multiprocessing.connection import Connection

PARENT_POLL_SECONDS = 1.0


class WorkerPipe:
    """A PoolConnection. The pipe closes however the parent ends, SIGKILL included."""

    def __init__(self, connection: Connection, directory: str) -> None:
        """`directory`: the folder of the pool's files, which no one else is left to remove when the parent is gone."""
        self._connection = connection
        self._directory = directory
        self._parent = os.getppid()
        self._sending = threading.Lock()

    def send(self, data: bytes) -> None:
        """Send one encoded message."""
        with self._sending:
            self._connection.send_bytes(data)

    def receive(self) -> bytes:
        """Wait for the next message. Raises EOFError if the parent is gone."""
        while not self._connection.poll(PARENT_POLL_SECONDS):
            if os.getppid() != self._parent:  # a process that it forked may still hold the pipe open
                raise EOFError
        return self._connection.recv_bytes()

    def clean_up(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._directory, ignore_errors=True)
