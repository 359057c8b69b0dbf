"""Measures how many cores other processes used during a measurement, because a row from a busy machine must say so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

TOLERATED_CORES = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")
_USER_OF_PROCESS = 13  # field utime of /proc/PID/stat, see proc(5)


class Bystanders:
    """Counts, from its creation on, the cores that processes other than `pids` kept busy or a hypervisor took away."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._started, self._before = time.perf_counter(), self._seconds()

    def cores(self) -> float:
        """The mean number of cores since the creation. Kernel time is left out, because that of the links is ours."""
        return max(0.0, (self._seconds() - self._before) / (time.perf_counter() - self._started))

    def _seconds(self) -> float:
        user, nice, *_, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        ours = (Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in self._pids)
        return (user + nice + steal - sum(int(fields[_USER_OF_PROCESS - 2]) for fields in ours)) / _TICKS
