"""The output of a run, which xfuser leaves on its last rank, comes to rank 0."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .groups import last_rank, world_group


def to_first(output: Any, rank: int, world: int) -> Any:
    """The last rank's `output` on rank 0, tensors in host memory if they had to travel; None on the others.

    Collective over these two ranks.
    """
    last, group = last_rank(world), world_group()
    if last == 0:
        return output
    if rank == last:
        dist.send_object_list([_on_host(output)], dst=0, group=group)
    elif rank == 0:
        received = [None]
        dist.recv_object_list(received, src=last, group=group)
        return received[0]
    return None


def _on_host(output: Any) -> Any:
    if hasattr(output, "to_tuple"):
        return type(output)(**{name: _on_host(value) for name, value in output.items()})
    return tree_map_only(Tensor, Tensor.cpu, output)
