"""Checks NCCL with one rank on the card, and records what two ranks on one card get, for which the pool uses gloo."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path


def two_ranks(rank: int, world: int) -> str:
    """The result or error of an NCCL all_reduce between two ranks on one card."""
    import torch
    import torch.distributed as dist

    dist.destroy_process_group()
    store = dist.FileStore(str(Path(tempfile.gettempdir()) / "compact-parallel-nccl"), world)
    torch.cuda.set_device(0)
    started = time.monotonic()
    try:
        dist.init_process_group("nccl", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=20))
        x = torch.ones(4, device="cuda")
        dist.all_reduce(x)
        torch.cuda.synchronize()
        said = f"all_reduce gave {x.tolist()}"
    except Exception as error:
        said = f"{type(error).__name__}: {str(error)[-300:]}"
    return f"after {time.monotonic() - started:.1f} s: {said}"


def run(tell: Callable) -> None:
    import torch
    import torch.distributed as dist
    from compact_parallel.runtime.pool.rendezvous import join_all, new_group
    from distributed import launch

    tell(nccl=".".join(map(str, torch.cuda.nccl.version())))
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        torch.cuda.set_device(0)
        join_all(f"file://{folder}/store", 0, 1, "nccl")
        group = new_group([0])
        on_card, on_cpu = torch.ones(4, device="cuda"), torch.ones(4)
        dist.all_reduce(on_card, group=group)
        dist.all_reduce(on_cpu, group=group)
        gathered = torch.empty(8, device="cuda")[:4]
        dist.all_gather_into_tensor(gathered, on_card, group=group)
        received = torch.empty(4, device="cuda")
        works = dist.batch_isend_irecv([dist.P2POp(dist.irecv, received, 0), dist.P2POp(dist.isend, on_card, 0)])
        for work in works:
            work.wait()
        torch.cuda.synchronize()
        tell(alone=[float(x.sum()) for x in (on_card, on_cpu, gathered, received)], seconds=time.monotonic() - started)
        free, whole = torch.cuda.mem_get_info()
        tell(card_bytes_taken=whole - free)
        dist.destroy_process_group()
        tell(two_ranks_on_one_card=launch(two_ranks, 2, Path(folder), timeout_s=40))
