"""Computes the degrees of mode "auto", or checks a user's, from a few numbers, such as conditions and batch entries.

sharing.py finds these numbers in the facts of a job.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..config import ConfigError, StrategyConfig
from ..parallel.mesh import Degrees


def manual_degrees(strategy: StrategyConfig, conditions: int | None, batch: int = 1) -> Degrees:
    """The degrees the user set, for calls of at most `conditions` conditions with `batch` entries each.

    `conditions` is None if it is uncertain; then only the run shows whether cfg_degree has something to do.
    Raises ConfigError if there are fewer conditions than cfg_degree or fewer entries than data_degree.
    """
    if strategy.data_degree > batch:
        raise ConfigError(
            f"data_degree is {strategy.data_degree} but the latent has a batch of {batch}; set data_degree to {batch} "
            f"or less, or batch_size of the latent to {strategy.data_degree} or more."
        )
    if conditions is not None and strategy.cfg_degree > max(1, conditions):
        count = f"{conditions} condition{'' if conditions == 1 else 's'}"
        fewer = "1" if conditions < 2 else f"{conditions} or less"
        raise ConfigError(
            f"cfg_degree is {strategy.cfg_degree} but the guider evaluates {count} per call; set cfg_degree to {fewer}."
        )
    return Degrees(
        data=strategy.data_degree,
        cfg=strategy.cfg_degree,
        step=strategy.step_degree,
        ring=strategy.ring_degree,
        ulysses=strategy.ulysses_degree,
        ring_exchange=strategy.ring_exchange,
        overlap=strategy.overlap,
        split_asked=strategy.ring_degree * strategy.ulysses_degree > 1,
    )


def auto_degrees(
    world: int,
    *,
    conditions: int,
    splits_tokens: bool,
    heads: int | None,
    rows: int | None = None,
    look_ahead: int = 1,
    batch: int = 1,
    ring: bool = True,
) -> Degrees:
    """The degrees of mode "auto", for `world` workers or fewer.

    Args:
        conditions: how many conditions of a call may go to different workers (2 for CFG above 1).
        splits_tokens: whether the model has a sequence-parallel plan.
        heads: attention heads of the model, if known.
        rows: the largest number of parts a picture's rows can be split into, if rows are split and not tokens.
        look_ahead: how many calls Step Reuse evaluates at a time.
        batch: batch entries that may go to different workers.
        ring: whether attention may get the queries of the local shard only.

    What is exact and sends little comes first: cfg takes two workers if two conditions are evaluated and the world is
    even, or neither step nor tokens can use workers; then data takes as many as divide both the batch and the rest.
    Then step takes the largest degree up to look_ahead that divides the rest. The tokens take what is left: by Ulysses
    if the heads are divisible and more than two workers share them (it sends less then) or `ring` is False, else by
    gathering K and V, if `ring` allows it.
    """
    only_cfg = not splits_tokens and look_ahead == 1 and world > 1
    cfg = 2 if conditions >= 2 and (world % 2 == 0 or only_cfg) else 1
    rest = world // cfg
    data = math.gcd(rest, batch)
    rest //= data
    step = max(degree for degree in range(1, look_ahead + 1) if rest % degree == 0)
    rest //= step
    degrees = Degrees(data=data, cfg=cfg, step=step)
    if not splits_tokens:
        return degrees
    if rows is not None:
        rest = min(rest, rows)
    by_heads = heads is not None and heads % rest == 0
    if by_heads and (rest > 2 or not ring):
        return replace(degrees, ulysses=rest)
    return replace(degrees, ring=rest) if ring else degrees


def one_by_one(degrees: Degrees, *, conditions: int, splits_tokens: bool) -> Degrees:
    """The degrees of the same workers for a call that is evaluated alone, so that few workers are idle.

    Of the step axis, cfg takes a factor of two if it is 1, step is even and there are two conditions; ring takes the
    rest if tokens can be split. Step groups that are left repeat the work.
    """
    cfg, step, ring = degrees.cfg, degrees.step, degrees.ring
    if cfg == 1 and conditions >= 2 and step % 2 == 0:
        cfg, step = 2, step // 2
    if splits_tokens:
        ring, step = ring * step, 1
    return replace(degrees, cfg=cfg, step=step, ring=ring)
