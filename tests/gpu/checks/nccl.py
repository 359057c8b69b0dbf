"""Checks NCCL: one rank on a card; two ranks on one card, for which the pool uses gloo; two ranks on two cards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from gpu.checks.card import own_card

LARGE, SMALL = 1 << 28, 1 << 10
"""Bytes of a message, for the bandwidth and for the latency."""


def on_one_card(rank: int, world: int, folder: str) -> str:
    """The result or error of an NCCL all_reduce between two ranks on one card."""
    import torch
    import torch.distributed as dist

    dist.destroy_process_group()
    store = dist.FileStore(str(Path(folder) / "one-card"), world)
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


def on_two_cards(rank: int, world: int, folder: str) -> dict[str, object]:
    """What two ranks, each on a card of its own, exchange, and how fast."""
    started = time.monotonic()
    own_card(rank, world, folder)
    import torch
    import torch.distributed as dist

    x = torch.full((4,), float(rank + 1), device="cuda")
    total, gathered = x.clone(), torch.empty(4 * world, device="cuda")
    dist.all_reduce(total)
    dist.all_gather_into_tensor(gathered, x)
    on_cpu = torch.ones(4)
    dist.all_reduce(on_cpu)
    found: dict[str, object] = {"sums": [float(y.sum()) for y in (total, gathered, on_cpu)]}
    found["start_seconds"] = time.monotonic() - started
    for name, nbytes in (("small", SMALL), ("large", LARGE)):
        sent, received = (torch.full((nbytes,), rank, dtype=torch.uint8, device="cuda") for _ in range(2))

        def both_ways(sent: torch.Tensor = sent, received: torch.Tensor = received) -> None:
            works = dist.batch_isend_irecv(
                [dist.P2POp(dist.irecv, received, 1 - rank), dist.P2POp(dist.isend, sent, 1 - rank)]
            )
            for work in works:
                work.wait()

        both_ways()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(10):
            both_ways()
        torch.cuda.synchronize()
        found[f"{name}_seconds"] = (time.perf_counter() - begun) / 10
        found[f"{name}_arrived"] = bool((received == 1 - rank).all())
    found["bytes_per_second_each_way"] = LARGE / found["large_seconds"]
    return found


def run(tell: Callable) -> None:
    import torch
    import torch.distributed as dist
    from compact_parallel.runtime.pool.rendezvous import join_all, new_group
    from device import CARDS
    from distributed import launch

    tell(nccl=".".join(map(str, torch.cuda.nccl.version())))
    if CARDS > 1:
        tell(peer_access=torch.cuda.can_device_access_peer(0, 1))
        with tempfile.TemporaryDirectory() as folder:
            tell(two_ranks_on_two_cards=launch(on_two_cards, 2, Path(folder), folder, timeout_s=70))
        return
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
        tell(two_ranks_on_one_card=launch(on_one_card, 2, Path(folder), folder, timeout_s=40))
