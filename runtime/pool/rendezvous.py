"""Process groups of the workers, who find each other through a file or an address."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from .errors import RendezvousLost

# A collective fails when a peer ends, and the pool ends a peer that is stopped. So this only limits the wait for a peer
# that is alive and never joins the collective.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# All ranks make a group at the same point of a run, so that none waits long for the others, unless the rendezvous is
# gone.
CONNECT_TIMEOUT = timedelta(seconds=60)


def has_nccl() -> bool:
    """Whether this PyTorch can talk by nccl; for AMD cards RCCL has the same name."""
    return dist.is_available() and dist.is_nccl_available()


def join_all(url: str, rank: int, world: int, backend: str) -> None:
    """Make the default process group ("gloo", or "nccl" with gloo for CPU tensors). The pool enforces a time limit.

    `url`: "file://" and a path, or a URL that torch.distributed knows, such as "tcp://" with host and port of rank 0.
    """
    scheme, _, path = url.partition("://")
    # torch itself reads no path with a question mark or a number sign in it
    store = dist.FileStore(path, world) if scheme == "file" else next(dist.rendezvous(url, rank, world))[0]
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
        dist.distributed_c10d._set_pg_timeout(COLLECTIVE_TIMEOUT, group)
    return group


def close_group(group: dist.ProcessGroup) -> None:
    """End a group that `new_group` has made, and its connections. Collective over its ranks."""
    dist.all_reduce(torch.zeros(1), group=group)  # so that nobody still waits for a message in it
    dist.destroy_process_group(group)
