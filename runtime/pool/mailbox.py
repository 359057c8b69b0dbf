"""The pool's end of the connection to one worker, when that is a multiprocessing.connection.Connection."""

from __future__ import annotations

import logging
import pickle
import queue
import threading
from multiprocessing.connection import Connection

from .launcher import Deliver
from .messages import decode
from .orders import Orders

log = logging.getLogger(__name__)

JOIN_SECONDS = 5.0


class Mailbox:
    """Sends and receives the messages of one worker, each in a thread.

    Sending needs a thread because a stopped process does not read, and writing to a full connection blocks.
    """

    def __init__(self, connection: Connection, orders: Orders, deliver: Deliver) -> None:
        self._connection = connection
        self._rank = orders.rank
        self._name = orders.name
        self._deliver = deliver
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=target, name=f"{self._name} {target.__name__.strip('_')}", daemon=True)
            for target in (self._receive, self._transmit)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, data: bytes) -> None:
        """Queue one encoded message. If the worker is gone, the thread that receives reports it."""
        self._outbox.put(data)

    def close(self) -> None:
        """Close the connection to a worker that has ended, after all it sent is received. Waits for both threads."""
        self._outbox.put(None)
        for thread in self._threads:
            thread.join(timeout=JOIN_SECONDS)
        self._connection.close()

    def _transmit(self) -> None:
        while (data := self._outbox.get()) is not None:
            try:
                self._connection.send_bytes(data)
            except OSError:
                log.debug("%s is gone", self._name)
                return

    def _receive(self) -> None:
        while True:
            try:
                message = decode(self._connection.recv_bytes())
            except (EOFError, OSError):
                break
            except pickle.UnpicklingError:
                log.exception("%s sent what is no message", self._name)
                break
            self._deliver(self._rank, message)
        self._deliver(self._rank, None)
