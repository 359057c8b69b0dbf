"""The registry of this process's pools, by name.

A MODEL holds the config of its pool, not the pool. Each of its runs gets the pool here, which may have been replaced.
"""

from __future__ import annotations

import atexit
import functools
import threading

from ..config import PoolConfig
from .launcher import Launcher
from .local.subprocess_launcher import LocalLauncher
from .pool import Pool
from .worker_group import SILENCE_SECONDS, Entry


class PoolRegistry:
    """Owns every pool. The same name and config give the same pool; another config replaces it."""

    def __init__(self) -> None:
        self.idle_seconds = 900.0
        self.silence_seconds = SILENCE_SECONDS
        self.launcher: Launcher = LocalLauncher()
        self._pools: dict[str, Pool] = {}
        self._lock = threading.Lock()

    def get(self, config: PoolConfig, devices: tuple[str, ...], entry: Entry) -> Pool:
        """The pool of this name and config. Made (not started) if there is none; another config's is stopped."""
        with self._lock:
            pool = self._pools.get(config.name)
            if pool is not None and (pool.config, pool.devices) == (config, devices):
                return pool
            fresh = self._pools[config.name] = Pool(
                config, devices, entry, self.idle_seconds, self.silence_seconds, self.launcher
            )
        if pool is not None:
            pool.stop()
        return fresh

    def find(self, name: str) -> Pool | None:
        """The pool of this name, or None."""
        return self._pools.get(name)

    def all(self) -> list[Pool]:
        """Every pool, in the order they were made."""
        return list(self._pools.values())

    def stop_all(self) -> None:
        """End every worker of every pool."""
        for pool in self.all():
            pool.stop()


@functools.cache
def pools() -> PoolRegistry:
    """The one registry of this process."""
    registry = PoolRegistry()
    atexit.register(registry.stop_all)
    return registry
