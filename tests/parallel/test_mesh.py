"""Process groups of arrangements that are no longer used are closed, and can be made again."""

from __future__ import annotations

import psutil
import pytest
import torch
import torch.distributed as dist
from compact_parallel.runtime.attention.axis import exchange
from compact_parallel.runtime.parallel import mesh
from compact_parallel.runtime.parallel.mesh import AXES, KEPT, Degrees, Mesh
from compact_parallel.runtime.report.ledger import Ledger
from distributed import launch

PAIRS = [Degrees(**{one: 2, other: 2}) for i, one in enumerate(AXES) for other in AXES[i + 1 :]]
"""Arrangements of four ranks, each with two groups of every rank."""


def passes(axis, rank):
    """Whether each rank of the axis gets its neighbour's number."""
    after, before = (axis.index + 1) % axis.size, (axis.index - 1) % axis.size
    received = torch.empty(1)
    exchange(axis, {after: torch.tensor([float(rank)])}, {before: received}, Ledger())
    return received.item() == axis.ranks[before]


def counts(rank, world, kept, rounds):
    """(groups, sockets) of this rank after each arrangement, and whether every axis has carried a message."""
    mesh.KEPT = kept
    made, seen, carried = Mesh(rank, world), [], True
    for degrees in rounds * PAIRS:
        for axis in made.axes(degrees).values():
            carried = carried and (axis.size == 1 or passes(axis, rank))
        sockets = len(psutil.Process().net_connections("tcp"))
        seen.append((len(dist.distributed_c10d._world.pg_map), sockets))
    return seen, carried


def test_groups_do_not_grow_with_the_arrangements(tmp_path):
    for seen, carried in launch(counts, 4, tmp_path, KEPT, 2):
        assert carried
        assert max(groups for groups, _ in seen) == 1 + 2 * KEPT
        groups, sockets = zip(*seen[KEPT:])
        assert set(groups) == {groups[0]}
        assert max(sockets) == sockets[0], "neither do connections; one that is just being closed may be missing"


def test_without_a_bound_they_do(tmp_path):
    """The control of the test above."""
    for seen, carried in launch(counts, 4, tmp_path, 1000, 1):
        assert carried
        assert seen[-1][0] == 1 + 2 * len(PAIRS)
        assert seen[-1][1] > seen[KEPT][1]


def same_again(rank, world):
    made = Mesh(rank, world)
    first, second = PAIRS[0], PAIRS[1]
    axes = made.axes(first), made.axes(second)
    for degrees in PAIRS[2 : 2 + KEPT - 1]:
        made.axes(degrees)
        made.axes(second)
    return made.axes(second) is axes[1], made.axes(first) is axes[0], all(made.axes(first) for _ in range(2))


def test_what_is_used_stays(tmp_path):
    assert launch(same_again, 4, tmp_path) == [(True, False, True)] * 4


@pytest.mark.parametrize("degrees", [Degrees(), Degrees(ring=2)])
def test_the_group_of_all_is_never_closed(degrees, tmp_path):
    assert launch(world_stays, degrees.world, tmp_path, degrees) == [True] * degrees.world


def world_stays(rank, world, degrees):
    made = Mesh(rank, world)
    made.axes(degrees)
    made._close(degrees.sizes)
    total = torch.ones(1)
    dist.all_reduce(total)
    return total.item() == world
