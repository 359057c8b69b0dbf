"""The lock on a pool's workers: a re-entrant lock that its holder can pass on to a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Turn:
    """A re-entrant lock whose holder can pass it on to a new thread without releasing it in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self.depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Like `threading.RLock.acquire`."""
        if self._holder == threading.get_ident():
            self.depth += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._holder, self.depth = threading.get_ident(), 1
        return True

    def release(self) -> None:
        """Call once for each `acquire`."""
        self.depth -= 1
        if self.depth == 0:
            self._holder = None
            self._lock.release()

    def pass_to(self, function: Callable[[], None]) -> None:
        """Call this in place of the last `release`: `function` runs in a thread that holds the lock until it returns.

        If the system cannot start a thread, the lock is released and `function` is not called.
        """

        def hold() -> None:
            self._holder = threading.get_ident()
            try:
                function()
            finally:
                self.release()

        self._holder = None  # until the thread begins, the former holder may try to acquire it again
        try:
            threading.Thread(target=hold, name="pool", daemon=True).start()
        except RuntimeError:
            self.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: Any) -> None:
        self.release()
