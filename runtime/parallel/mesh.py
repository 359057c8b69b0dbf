"""The mesh of workers: axes data x cfg x step x ring x ulysses, ulysses varying fastest; degrees and process groups."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, field

import torch.distributed as dist

from ..attention.axis import Axis
from ..attention.ulysses import HEAD_CHUNK_NBYTES
from ..pool.rendezvous import close_group, new_group

AXES = ("data", "cfg", "step", "ring", "ulysses")
KEPT = 4
"""Arrangements whose process groups are kept. A run uses at most two, and a workflow may have two runs in turn."""


@dataclass(frozen=True)
class Degrees:
    """The size of every mesh axis, and how attention exchanges tensors (see config.StrategyConfig).

    `split_asked`: the user set ring or ulysses by hand, so a model that cannot be split is an error.
    `head_chunk_nbytes`: the least bytes of a head chunk of attention on the link (see attention/sequence_attention.py).
    """

    data: int = 1
    cfg: int = 1
    step: int = 1
    ring: int = 1
    ulysses: int = 1
    ring_exchange: str = "all_gather"
    overlap: bool = True
    split_asked: bool = field(default=False, compare=False)
    head_chunk_nbytes: int = field(default=HEAD_CHUNK_NBYTES, compare=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Axis sizes in the order of AXES."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def world(self) -> int:
        """The number of workers."""
        return math.prod(self.sizes)

    @property
    def sequence(self) -> int:
        """How many ways the tokens are split."""
        return self.ring * self.ulysses

    def named(self) -> dict[str, int]:
        """The degrees under the names the Parallel Strategy node gives them."""
        return {f"{axis}_degree": size for axis, size in zip(AXES, self.sizes)}

    def to_json(self) -> dict:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Degrees:
        """The inverse of `to_json`."""
        return cls(**data)


class Mesh:
    """The axes of one rank, with their process groups, which are kept for the KEPT sets of degrees used last.

    A group takes memory of the device and, on the host, connections to its other ranks.
    """

    def __init__(self, rank: int, world: int) -> None:
        self._rank = rank
        self._world = world
        self._axes: dict[tuple[int, ...], dict[str, Axis]] = {}

    def axes(self, degrees: Degrees) -> dict[str, Axis]:
        """The axes by name. Those of the degrees that were asked for longest ago are closed beyond KEPT.

        Collective: every rank asks for the same degrees in the same order, and so makes and closes the same groups.
        """
        axes = self._axes.pop(degrees.sizes, None)
        if axes is None:
            while len(self._axes) >= KEPT:
                self._close(next(iter(self._axes)))
            axes = {name: self._make(name, degrees) for name in AXES}
        self._axes[degrees.sizes] = axes
        return axes

    def _close(self, sizes: tuple[int, ...]) -> None:
        for axis in self._axes.pop(sizes).values():
            if axis.group is not None and axis.group != dist.group.WORLD:
                close_group(axis.group)

    def _make(self, name: str, degrees: Degrees) -> Axis:
        own = None
        for ranks in axis_ranks(name, degrees):
            group = None
            if len(ranks) == self._world > 1:
                group = dist.group.WORLD
            elif len(ranks) > 1:
                group = new_group(ranks)
            if self._rank in ranks:
                own = Axis(name, ranks, ranks.index(self._rank), group)
        assert own is not None, "every rank is on every axis"
        return own


def axis_ranks(name: str, degrees: Degrees) -> list[tuple[int, ...]]:
    """The global ranks of every group along one axis of the mesh, in a fixed order."""
    sizes = dict(zip(AXES, degrees.sizes))

    def rank(position: dict[str, int]) -> int:
        number = 0
        for axis in AXES:
            number = number * sizes[axis] + position[axis]
        return number

    others = [axis for axis in AXES if axis != name]
    return [
        tuple(rank({**dict(zip(others, fixed)), name: i}) for i in range(sizes[name]))
        for fixed in itertools.product(*(range(sizes[axis]) for axis in others))
    ]
