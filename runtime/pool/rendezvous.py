"""How the workers find each other: by a file in the pool's folder, at their start and for each new process group."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from .errors import RendezvousLost

# A collective ends when a peer ends, and a peer that is stopped is ended by the pool. So this only bounds a peer that
# is alive and never comes.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# All ranks make a group at the same place of a run, so that none waits long for the others, unless the file is gone.
CONNECT_TIMEOUT = timedelta(seconds=60)


def join_all(path: str, rank: int, world: int, backend: str) -> None:
    """Make the default process group ("gloo", or "nccl" with gloo for CPU tensors). The pool limits how long."""
    store = dist.FileStore(path, world)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=COLLECTIVE_TIMEOUT,
    )
    store.set_timeout(CONNECT_TIMEOUT)


def new_group(ranks: Sequence[int]) -> dist.ProcessGroup:
    """A process group of these ranks. Collective over all. Raises RendezvousLost where they do not find each other."""
    try:
        group = dist.new_group(ranks, timeout=CONNECT_TIMEOUT)
    except RuntimeError as error:
        raise RendezvousLost(
            f"The workers could not connect in another arrangement ({error}): their folder for temporary files was "
            "removed or cannot be written. Run it again; the pool starts anew."
        ) from error
    if group is not dist.GroupMember.NON_GROUP_MEMBER:
        _set_pg_timeout(COLLECTIVE_TIMEOUT, group)
    return group


class RendezvousFile:
    """The file as the pool sees it: the one that its workers met by, or another in its place?"""

    def __init__(self, directory: Path, number: int = 0) -> None:
        self.path = directory / f"rendezvous-{number}"
        self._number = number
        self._met: tuple[int, int] | None = None

    def next(self) -> RendezvousFile:
        """The file for their next meeting, which needs a new one."""
        return RendezvousFile(self.path.parent, self._number + 1)

    def met(self) -> None:
        """All workers have met by it."""
        self._met = self._seen()

    def intact(self) -> bool:
        """Whether the workers could meet by it again: it is the same file, and nothing is cut off."""
        seen = self._seen()
        return seen is not None and self._met is not None and seen[0] == self._met[0] and seen[1] >= self._met[1]

    def _seen(self) -> tuple[int, int] | None:
        try:
            about = self.path.stat()
        except OSError:
            return None
        return about.st_ino, about.st_size
