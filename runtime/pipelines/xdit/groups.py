"""xfuser's process groups over our ranks: made for a run, all of them closed after it.

xfuser orders the ranks as our mesh does, the stages of PipeFusion between ring and cfg: ulysses varies fastest, then
ring, stages, cfg.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist

from ...attention.axis import Axis
from ...attention.unsupported import Unsupported
from ...parallel.mesh import Degrees
from ...pool.rendezvous import COLLECTIVE_TIMEOUT
from .loading import load, part, replace

_GLOBALS = ("_WORLD", "_MODEL_REPLICA", "_DP", "_CFG", "_PP", "_SP", "_TP", "_FS", "_DIT", "_VAE")


class Together:
    """Whether all ranks are at the same place, with no message under way, as at the beginning and end of a run."""

    def __init__(self) -> None:
        self.yes = False


@contextmanager
def process_groups(degrees: Degrees, stages: int, device: torch.device, world: int) -> Iterator[Together]:
    """xfuser's groups for these degrees, with `stages` of PipeFusion, out of the default process group.

    Collective at the beginning. Whoever uses the groups says in what is yielded whether the ranks are together; then
    they wait for each other at the end. Otherwise a group is closed at once, so that others, who may wait in it, fail.
    Raises Unsupported for a GPU without nccl, and if xfuser is in use in this process already.
    """
    state, sequence = load("xfuser.core.distributed.parallel_state"), load("yunchang.globals").PROCESS_GROUP
    backend = _backend(device)
    made: list[dist.ProcessGroup] = []
    with ExitStack() as stack:
        for name in _GLOBALS:
            if part(state, name) is not None:
                raise Unsupported("xDiT is in use in this process already; restart the workers.")
            stack.callback(setattr, state, name, None)
        for name in ("ULYSSES_PG", "RING_PG"):
            replace(stack, sequence, name, None)
        with ExitStack() as recording:
            replace(recording, dist, "new_group", _recorder(dist.new_group, made))
            local = device.index or 0
            state._WORLD = part(state, "init_world_group")(list(range(world)), local, backend)
            part(state, "initialize_model_parallel")(
                classifier_free_guidance_degree=degrees.cfg,
                sequence_parallel_degree=degrees.sequence,
                ulysses_degree=degrees.ulysses,
                ring_degree=degrees.ring,
                pipeline_parallel_degree=stages,
                backend=backend,
            )
        together = Together()
        try:
            yield together
        finally:
            if together.yes:
                dist.all_reduce(torch.zeros(1), group=world_group())  # so that nobody still waits in another group
            for group in made:
                dist.destroy_process_group(group)


def _backend(device: torch.device) -> str:
    if device.type == "cpu":
        return "gloo"
    if "nccl" not in str(dist.get_backend_config(dist.group.WORLD)):
        raise Unsupported(
            f"xDiT runs on {device} here, and its messages between GPUs need nccl; give every worker a GPU of its own, "
            "or run on CPU workers."
        )
    return "nccl"


def _recorder(new_group: Any, made: list[dist.ProcessGroup]) -> Any:
    """`new_group` that remembers the groups of which this rank is a member: xfuser itself forgets some.

    xfuser makes two groups of every rank alone for each kind of parallelism that is off. One does for all: nothing is
    sent in it, and each takes the ranks as long as a group of several.
    """
    of_one: dict[tuple[int, str | None], dist.ProcessGroup] = {}

    def record(ranks: Sequence[int], backend: str | None = None) -> dist.ProcessGroup:
        key = (ranks[0], backend)
        if len(ranks) == 1 and key in of_one:
            return of_one[key]
        group = new_group(ranks, timeout=COLLECTIVE_TIMEOUT, backend=backend)
        if len(ranks) == 1:
            of_one[key] = group
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            made.append(group)
        return group

    return record


def world_group() -> dist.ProcessGroup:
    """All ranks, for tensors on the CPU."""
    return load("xfuser.core.distributed.parallel_state").get_world_group().cpu_group


def last_rank(world: int) -> int:
    """The rank that has the result: that of the last stage, the last condition and the last tokens."""
    return world - 1


def axes() -> dict[str, Axis]:
    """xfuser's two axes of sequence parallelism as ours."""
    groups = load("yunchang.globals").PROCESS_GROUP
    return {name: _axis(name, group) for name, group in (("ulysses", groups.ULYSSES_PG), ("ring", groups.RING_PG))}


def _axis(name: str, group: dist.ProcessGroup) -> Axis:
    ranks = tuple(dist.get_process_group_ranks(group))
    return Axis(name, ranks, ranks.index(dist.get_rank()), group if len(ranks) > 1 else None)
