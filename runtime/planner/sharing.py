"""The degrees of a job from its facts: what may be divided, and why the rest is refused, each with a way out.

degrees.py does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..attention.unsupported import Unsupported
from ..config import ParallelConfig
from ..parallel.mesh import Degrees
from .capabilities import CFG, DATA, EASYCACHE, ONE_DEVICE, ROWS, Lost, nothing_left, refusal
from .degrees import auto_degrees, manual_degrees, one_by_one
from .facts import JobFacts


class NothingToShare(Unsupported):
    """One device does this run as well as all workers, and nothing the user asked for is lost."""


def degrees_for(
    config: ParallelConfig,
    facts: JobFacts,
    world: int,
    lost: Lost,
    *,
    look_ahead: int = 1,
    idle: Collection[str] = (),
) -> Degrees:
    """The degrees of a job that evaluates `look_ahead` calls at a time.

    `idle`: the kinds of parallelism that had nothing to do in earlier runs, which mode "auto" does not choose again.
    Raises ConfigError or Unsupported, each with the way out.
    In mode "auto" the degrees may multiply to less than `world`, if not all workers would have something to do.
    """
    model, manual = facts.model, config.strategy.mode == "manual"
    batch = _divisible_batch(facts)
    if manual and config.strategy.data_degree > 1:
        _refuse_data(facts, lost)
    if facts.split_elsewhere:
        raise Unsupported(
            "MultiGPU CFG Split has put copies of this model on other devices already; bypass that node: Parallel "
            "Model divides the work by itself."
        )
    if refused := refusal(config.strategy.degrees_set(), lost, model.kind):
        raise Unsupported(refused)
    against = against_cfg(facts, lost)
    if manual:
        degrees = manual_degrees(config.strategy, facts.asked.most, batch)
        if degrees.cfg > 1 and against:
            raise Unsupported(against)
    else:
        degrees = auto_degrees(
            world,
            conditions=1 if against else facts.asked.usual,
            splits_tokens=can_split(facts, lost) and not _runs_whole(facts) and "sequence" not in idle,
            heads=model.heads,
            rows=model.rows,
            look_ahead=look_ahead,
            batch=1 if facts.sees_batch or "data" in idle or DATA in lost else batch,
            ring=not facts.sparse,
        )
        degrees = replace(degrees, overlap=config.strategy.overlap)
    if degrees.sequence > 1:
        if model.refusal:
            raise Unsupported(model.refusal)
        if _runs_whole(facts):
            raise Unsupported(_whole_with(facts, lost))
    if look_ahead == 1 and degrees.step > 1:  # the sampler cannot look ahead
        degrees = degrees_alone(degrees, facts, lost)
        if degrees.step > 1:
            raise Unsupported(
                f"step_degree is {config.strategy.step_degree}, but this sampler makes one call after the other, and "
                "these workers have nothing else to share; choose another sampler, such as euler or dpmpp_2m, or set "
                "step_degree to 1."
            )
    if degrees.world == 1 and look_ahead == 1:
        raise _one_does_it_all(facts, lost, batch, idle)
    return degrees


def degrees_alone(degrees: Degrees, facts: JobFacts, lost: Lost, *, may_split_tokens: bool = True) -> Degrees:
    """The degrees of the same workers for a call that Step Reuse evaluates alone.

    The user did not ask for this split, so tokens are split only if nothing can refuse it: no guard of the model's plan
    and no picture with too few rows.
    """
    steered = facts.sees_batch or facts.controlled or facts.sparse
    return one_by_one(
        degrees,
        conditions=1 if against_cfg(facts, lost) else facts.asked.usual,
        splits_tokens=may_split_tokens and not steered and can_split(facts, lost) and facts.model.kind != ROWS,
    )


def can_split(facts: JobFacts, lost: Lost) -> bool:
    """Whether the model's tokens or rows can be divided."""
    return not facts.model.no_plan and facts.model.kind not in lost


def against_cfg(facts: JobFacts, lost: Lost) -> str:
    """Why the conditions of a call cannot go to different workers, due to model, ComfyUI or patches; "" if they can."""
    traits = facts.model.traits
    if facts.batch > 1 and traits.pairs_conditions:
        return (
            f"{traits.title} pairs the conditions of a batch within the model, which cfg_degree takes apart; set "
            "cfg_degree to 1 and use data_degree."
        )
    if traits.mixes_batch:
        return _mixes(facts, "cfg_degree")
    if reason := lost.get(CFG) or (lost.get(EASYCACHE) if facts.easycache else None):
        return nothing_left(reason)
    return facts.against_cfg


def way_out(degrees: str, facts: JobFacts, lost: Lost) -> str:
    """The advice for a job that cannot use the named degrees ("ulysses_degree and ring_degree"): others that work."""
    others = {
        "cfg_degree": facts.asked.usual > 1 and not against_cfg(facts, lost),
        "data_degree": _divisible_batch(facts) > 1 and not facts.sees_batch,
        "ring_degree": not facts.model.no_plan and not _runs_whole(facts),
    }
    kind = facts.model.kind
    left = [name for name, works in others.items() if works and name not in degrees]
    left = [name for name in left if not refusal({name: 2}, lost, kind)]
    return f"set {degrees} to 1 and use {' or '.join(left)}" if left else ONE_DEVICE


def _divisible_batch(facts: JobFacts) -> int:
    traits = facts.model.traits
    return 1 if traits.batch_is_frames or traits.mixes_batch else facts.batch


def _refuse_data(facts: JobFacts, lost: Lost) -> None:
    traits = facts.model.traits
    if traits.batch_is_frames:
        raise Unsupported(
            f"The batch of {traits.title} is the frames of one video, which belong together; "
            f"{way_out('data_degree', facts, lost)}."
        )
    if traits.mixes_batch:
        raise Unsupported(_mixes(facts, "data_degree"))


def _mixes(facts: JobFacts, degree: str) -> str:
    return (
        f"{facts.model.traits.title} lets the entries of a batch see each other's text, which {degree} takes apart; "
        "set it to 1 and use ulysses_degree or ring_degree."
    )


def _runs_whole(facts: JobFacts) -> bool:
    """Whether code that the workflow has replaced keeps the model from being split."""
    return bool(facts.replaced) and not facts.model.splits_around_changes


def _whole_with(facts: JobFacts, lost: Lost) -> str:
    return (
        f"{facts.model.name} cannot be split over ranks with {facts.replaced}, which may look at all of the picture; "
        f"{way_out('ulysses_degree and ring_degree', facts, lost)}."
    )


def _one_does_it_all(facts: JobFacts, lost: Lost, batch: int, idle: Collection[str]) -> Unsupported:
    """The error for a job of which several workers have nothing to share."""
    if idle:
        return NothingToShare(
            "The last run of this workflow has shown that its workers have nothing to share, so ComfyUI samples as "
            "always."
        )
    against = against_cfg(facts, lost)
    if against and facts.asked.usual > 1:
        return Unsupported(against)
    tokens = lost.get(facts.model.kind) if not facts.model.no_plan else None
    if reason := tokens or (lost.get(DATA) if batch > 1 else None):
        return Unsupported(nothing_left(reason))
    if _runs_whole(facts) and not facts.model.no_plan:
        return Unsupported(_whole_with(facts, lost))
    tokens = facts.model.no_plan or f"The picture has too few rows for {facts.model.name} to be split"
    # Both conditions would be evaluated if only CFG were higher.
    higher = "set CFG above 1, or " if facts.one_at_cfg_1 else ""
    return Unsupported(f"{tokens} and one condition per call, so there is nothing to share; {higher}{ONE_DEVICE}.")
