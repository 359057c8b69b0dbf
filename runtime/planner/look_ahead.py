"""Decides how far ahead Step Reuse looks in a job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..attention.unsupported import Unsupported
from ..config import ParallelConfig, StepReuseConfig, chosen_step_reuse
from ..parallel.mesh import Degrees
from ..parallel.step.samplers import SERIAL, Kind
from .capabilities import STEP, UPDATE, Lost, refusal
from .facts import JobFacts, SamplerFacts

# Fewer rounds than this gain too little for the risk.
LEAST_ROUNDS = 2


@dataclass(frozen=True)
class LookAhead:
    """Step Reuse as the job will run it. `batches`: whether one worker may evaluate several calls as one batch."""

    config: StepReuseConfig = field(default_factory=StepReuseConfig)
    kind: Kind | None = None
    batches: bool = False
    warnings: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        """The settings as they are done, and how the sampler looks ahead, for the report."""
        about = {"way": self.kind.way, "reason": self.kind.reason} if self.kind is not None else {}
        return {**self.config.to_json(), **about}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LookAhead:
        """The inverse of `to_json`."""
        kind = Kind(**data["kind"]) if data["kind"] is not None else None
        return cls(StepReuseConfig.from_json(data["config"]), kind, data["batches"], tuple(data["warnings"]))


def look_ahead_for(config: ParallelConfig, facts: JobFacts, lost: Lost) -> LookAhead:
    """Step Reuse for this sampler, model and number of calls. Raises ConfigError or Unsupported.

    A sampler that cannot look ahead runs one call after the other, with a warning.
    """
    reuse = chosen_step_reuse(config)
    if not reuse.enabled:
        return LookAhead()
    if reason := lost.get(STEP):
        if refused := refusal(config.strategy.degrees_set(), lost):
            raise Unsupported(refused)
        return LookAhead(warnings=(f"Step Reuse did nothing: {reason}; {UPDATE}",))
    sampler = facts.sampler
    if sampler.kind.refused:
        raise Unsupported(
            f"Step Reuse cannot be used with the sampler {sampler.name}: {sampler.kind.reason}. Choose another "
            "sampler, such as euler or dpmpp_2m, or unplug Step Reuse (and set step_degree to 1)."
        )
    if sampler.kind.way == SERIAL:
        why = f"the sampler {sampler.name} runs one call after the other, because {sampler.kind.reason}"
        return LookAhead(kind=sampler.kind, warnings=(f"Step Reuse did nothing: {why}.",))
    if facts.against_look_ahead:
        raise Unsupported(facts.against_look_ahead)
    _require_calls(config, reuse, sampler)
    reason = facts.against_batched_calls
    if facts.model.traits.mixes_batch or facts.model.traits.pairs_conditions:
        reason = reason or "the entries of a batch see each other in this model"
    return LookAhead(reuse, sampler.kind, not reason, (_unbatched(reason),) if reason else ())


def _require_calls(config: ParallelConfig, reuse: StepReuseConfig, sampler: SamplerFacts) -> None:
    calls = sampler.calls
    assert calls is not None, "the calls of a sampler that can look ahead have been counted"
    least = reuse.warmup_calls + reuse.tail_calls + LEAST_ROUNDS * reuse.look_ahead
    if calls >= least:
        return
    # The largest look_ahead that fits into these calls; it must be at least step_degree.
    fits = (calls - reuse.warmup_calls - reuse.tail_calls) // LEAST_ROUNDS
    step_degree = config.strategy.step_degree if config.strategy.mode == "manual" else 1
    smaller = f"look_ahead {fits}" if fits >= max(2, step_degree) else ""
    unplug = "unplug Step Reuse" if step_degree == 1 else "set step_degree to 1 and unplug Step Reuse"
    raise Unsupported(
        f"Step Reuse needs at least {least} model calls (warmup_calls {reuse.warmup_calls} + tail_calls "
        f"{reuse.tail_calls} + {LEAST_ROUNDS} rounds of look_ahead {reuse.look_ahead}), but this run has {calls}; "
        f"use more steps{' or ' + smaller if smaller else ''}, or {unplug} (distilled models with few steps do not "
        "gain from it)."
    )


def limited(ahead: LookAhead, degrees: Degrees, *, auto: bool) -> LookAhead:
    """`ahead`, limited to what these degrees allow: without batches a round has at most one call per step group.

    If that leaves one call per round, mode "auto" with several workers switches Step Reuse off with a warning; all else
    raises Unsupported.
    """
    reach = ahead.config.look_ahead if ahead.batches else min(ahead.config.look_ahead, degrees.step)
    if not ahead.config.enabled or reach == ahead.config.look_ahead:
        return replace(ahead, warnings=() if ahead.config.enabled else ahead.warnings)
    if reach == 1 and auto and degrees.world > 1:
        return LookAhead(kind=ahead.kind, warnings=(_shared_instead(degrees),))
    if reach == 1:
        more = "use two workers or more" if degrees.world == 1 else "set step_degree of Parallel Strategy to 2 or more"
        raise Unsupported(
            f"{ahead.warnings[0]} With step_degree 1 nothing is left to look ahead with; {more}, or unplug Step Reuse."
        )
    return replace(ahead, config=replace(ahead.config, look_ahead=reach))


def _shared_instead(degrees: Degrees) -> str:
    if degrees.sequence > 1:
        return (
            f"Step Reuse did nothing: these {degrees.world} workers cannot be divided into groups for it, so they "
            "share the tokens."
        )
    what = " and ".join(
        name for name, size in (("the conditions", degrees.cfg), ("the batch", degrees.data)) if size > 1
    )
    return (
        f"Step Reuse did nothing: the workers share {what}, which is as fast and changes nothing. More workers would "
        "look ahead."
    )


def _unbatched(reason: str) -> str:
    return f"Step Reuse evaluates one call per worker at a time, because {reason}."
