"""Starts workers as processes of this machine, which meet through a file in a temporary folder."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

from ..errors import PoolError
from ..launcher import Deliver
from ..orders import Orders
from .environment import worker_environment
from .folder_store import FolderStore
from .process import WorkerProcess
from .rendezvous_file import RendezvousFile


class LocalLauncher:
    """A Launcher: every site is a new temporary folder."""

    def open(self, devices: tuple[str, ...]) -> LocalSite:
        """A site for one worker per device. Raises PoolError if no folder for their files can be made."""
        return LocalSite(_new_directory(), cpu_workers=devices.count("cpu"))


class LocalSite:
    """A Site of this machine."""

    def __init__(self, directory: Path, cpu_workers: int) -> None:
        """`cpu_workers`: how many workers share the machine's cores."""
        self.store = FolderStore(directory)
        self._directory = directory
        self._cpu_workers = cpu_workers
        self._numbers = itertools.count()

    def rendezvous(self) -> RendezvousFile:
        """A new file, which does not exist before a rank connects."""
        return RendezvousFile(self._directory / f"rendezvous-{next(self._numbers)}")

    def start(self, orders: Orders, deliver: Deliver) -> WorkerProcess:
        """Start one process."""
        environment = worker_environment(orders.device, self._cpu_workers)
        return WorkerProcess(orders, self._directory, environment, deliver)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._directory, ignore_errors=True)


def _new_directory() -> Path:
    """Make a folder for the workers' files in the system's temporary folder, which is created if it was removed."""
    parent = Path(tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="compact-parallel-", dir=parent))
    except OSError as error:
        raise PoolError(
            f"There is no place for the workers' temporary files: {error}. Make {parent} a folder that ComfyUI may "
            "write to, or start ComfyUI with TMPDIR set to another one."
        ) from error
