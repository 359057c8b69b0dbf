"""A plugin of pytest: pools that tests get from the registry have forked workers (worker_forks.py), on the CPU.

A pool whose workers get another ComfyUI or other command-line options, which count when that is imported, starts them
as always.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from device import DEVICE

COMMAND_LINE = ("main.py",)
HANDLER = "sampling_handler"


def _launcher():
    from compact_parallel.runtime.pool.local.environment import worker_environment
    from compact_parallel.runtime.pool.local.process import WorkerProcess
    from compact_parallel.runtime.pool.local.subprocess_launcher import LocalLauncher, LocalSite
    from worker_forks import WorkerForks

    class ForkingLauncher(LocalLauncher):
        """A LocalLauncher whose sites fork their workers."""

        def __init__(self) -> None:
            self.forks: list[WorkerForks] = []

        def open(self, devices: tuple[str, ...]) -> LocalSite:
            site = super().open(devices)
            site.start = lambda orders, deliver: self._start(site, orders, deliver)
            return site

        def _start(self, site, orders, deliver):
            same_comfyui = os.environ["COMFYUI_PATH"] in sys.path
            if not same_comfyui or tuple(orders.command_line) != COMMAND_LINE or HANDLER not in orders.handler:
                return LocalSite.start(site, orders, deliver)
            while len(self.forks) < 2:
                self.forks.append(WorkerForks(dict(os.environ)))
            environment = worker_environment(orders.device, site._cpu_workers)
            spawn = self.forks[orders.rank % 2].spawn
            return WorkerProcess(orders, site._directory, environment, deliver, spawn)

    return ForkingLauncher()


@pytest.fixture(scope="session", autouse=True)
def forked_workers() -> Iterator[None]:
    """Makes the registry's pools fork their workers, where ComfyUI is there to be imported first."""
    if DEVICE != "cpu" or "COMFYUI_PATH" not in os.environ:
        yield
        return
    from compact_parallel.runtime.pool.registry import pools

    launcher = pools().launcher = _launcher()
    yield
    for pool in pools().all():
        pool.stop()
    for forks in launcher.forks:
        forks.close()
