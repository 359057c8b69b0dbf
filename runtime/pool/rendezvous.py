"""Process groups of the workers, who find each other through a file in the pool's folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from .errors import RendezvousLost

# A collective fails when a peer ends, and the pool ends a peer that is stopped. So this only limits the wait for a peer
# that is alive and never joins the collective.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# All ranks make a group at the same point of a run, so that none waits long for the others, unless the file is gone.
CONNECT_TIMEOUT = timedelta(seconds=60)


def join_all(path: str, rank: int, world: int, backend: str) -> None:
    """Make the default process group ("gloo", or "nccl" with gloo for CPU tensors). The pool enforces a time limit."""
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
    """Make a process group of these ranks. Collective over all. Raises RendezvousLost if they cannot connect."""
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
    """The rendezvous file, as the pool watches it: is it still the file that its workers connected through?"""

    def __init__(self, directory: Path, number: int = 0) -> None:
        self.path = directory / f"rendezvous-{number}"
        self._number = number
        self._met: tuple[int, int] | None = None

    def next(self) -> RendezvousFile:
        """The file for the next default process group; each needs a new file."""
        return RendezvousFile(self.path.parent, self._number + 1)

    def met(self) -> None:
        """Record that all workers have connected through this file."""
        self._met = self._seen()

    def intact(self) -> bool:
        """Whether the workers can still use it: it is the same file and has not been truncated."""
        seen = self._seen()
        return seen is not None and self._met is not None and seen[0] == self._met[0] and seen[1] >= self._met[1]

    def _seen(self) -> tuple[int, int] | None:
        try:
            about = self.path.stat()
        except OSError:
            return None
        return about.st_ino, about.st_size
