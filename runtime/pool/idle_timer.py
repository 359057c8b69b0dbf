"""A timer that is restarted by every use, and acts when there was none for long."""

from __future__ import annotations

import threading
from collections.abc import Callable


class IdleTimer:
    """Calls `act` in a thread of its own when `seconds` have passed since the last `restart`."""

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self.seconds = seconds
        self._act = act
        self._timer: threading.Timer | None = None

    def restart(self) -> None:
        """Count from now."""
        self.cancel()
        self._timer = threading.Timer(self.seconds, self._act)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Count no more."""
        if self._timer is not None:
            self._timer.cancel()

    def due(self) -> bool:
        """For `act`: whether the calling thread is the timer that counts, not one replaced since it ran out."""
        return self._timer is threading.current_thread()
