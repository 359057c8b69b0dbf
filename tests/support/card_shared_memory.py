"""How much of one simulated card several processes hold together."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path


class SharedMemory:
    """How much each process holds of one card, in a file that they share: a number per process."""

    PROCESSES = 8

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * self.PROCESSES))
        with path.open("r+b") as file:
            self._held = mmap.mmap(file.fileno(), 0)

    def hold(self, process: int, nbytes: int) -> None:
        """Says how much a process holds now."""
        struct.pack_into("<q", self._held, 8 * process, nbytes)

    def forget_others(self, process: int) -> None:
        """All other processes have ended."""
        own = self.of(process)
        self._held[:] = bytes(8 * self.PROCESSES)
        self.hold(process, own)

    def of(self, process: int) -> int:
        """Bytes that a process holds."""
        return struct.unpack_from("<q", self._held, 8 * process)[0]

    def of_others(self, process: int) -> int:
        """Bytes that all other processes hold."""
        return sum(self.of(other) for other in range(self.PROCESSES) if other != process)
