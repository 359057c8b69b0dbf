"""The mesh: how the workers are arranged, cfg x ring x ulysses, ulysses varying fastest."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass

import torch.distributed as dist

from ..attention.axis import Axis
from ..config import ConfigError, StrategyConfig

AXES = ("cfg", "ring", "ulysses")


@dataclass(frozen=True)
class Degrees:
    """The size of every axis, and how its ranks exchange tensors (see config.StrategyConfig)."""

    cfg: int = 1
    ring: int = 1
    ulysses: int = 1
    ring_exchange: str = "all_gather"
    overlap: bool = True

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


def manual_degrees(strategy: StrategyConfig, world: int, conditions: int) -> Degrees:
    """The degrees the user set; `conditions` is how many the guider evaluates at every call.

    Raises ConfigError when they do not multiply to `world` or there are fewer conditions than cfg_degree.
    """
    strategy.check_world(world)
    if strategy.cfg_degree > max(1, conditions):
        raise ConfigError(
            f"cfg_degree is {strategy.cfg_degree} but the guider evaluates {conditions} "
            f"condition{'' if conditions == 1 else 's'} per call; set cfg_degree to {max(1, conditions)} or less."
        )
    return Degrees(
        strategy.cfg_degree,
        strategy.ring_degree,
        strategy.ulysses_degree,
        strategy.ring_exchange,
        strategy.overlap,
    )


def auto_degrees(world: int, *, conditions: int, splits_tokens: bool, heads: int | None) -> Degrees:
    """The degrees of mode "auto", for `world` workers or fewer.

    Args:
        conditions: how many conditions of a call may go to different workers (2 for CFG above 1).
        splits_tokens: whether the model has a sequence-parallel plan. Without one only CFG can be shared, by two.
        heads: attention heads of the model, if known.

    CFG takes two workers where two conditions are evaluated and the world is even, the tokens take the rest: by Ulysses
    where more than two workers share them and the heads divide (then it sends less), else by gathering K and V.
    """
    if not splits_tokens:
        return Degrees(cfg=2 if conditions >= 2 else 1)
    cfg = 2 if conditions >= 2 and world % 2 == 0 else 1
    rest = world // cfg
    if rest > 2 and heads is not None and heads % rest == 0:
        return Degrees(cfg=cfg, ulysses=rest)
    return Degrees(cfg=cfg, ring=rest)


class Mesh:
    """The axes of one rank, with their process groups. Groups are made once for each arrangement and kept."""

    def __init__(self, rank: int, world: int) -> None:
        self._rank = rank
        self._world = world
        self._axes: dict[tuple[int, ...], dict[str, Axis]] = {}

    def axes(self, degrees: Degrees) -> dict[str, Axis]:
        """The axes by name. Collective on the first use of an arrangement: every rank makes every group."""
        if degrees.sizes not in self._axes:
            self._axes[degrees.sizes] = {name: self._make(name, degrees) for name in AXES}
        return self._axes[degrees.sizes]

    def _make(self, name: str, degrees: Degrees) -> Axis:
        own = None
        for ranks in axis_ranks(name, degrees):
            group = None
            if len(ranks) == self._world > 1:
                group = dist.group.WORLD
            elif len(ranks) > 1:
                group = dist.new_group(ranks)
            if self._rank in ranks:
                own = Axis(name, ranks, ranks.index(self._rank), group)
        assert own is not None, "every rank is on every axis"
        return own


def axis_ranks(name: str, degrees: Degrees) -> list[tuple[int, ...]]:
    """The global ranks of every line of the mesh along one axis, in a fixed order."""
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
