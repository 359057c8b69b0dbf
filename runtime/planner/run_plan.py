"""The one decision: what workers divide, how, and what is refused, from plain facts. No model is needed.

`plan_run` is asked three times, with more facts each time: by the node before anything runs, by a run before its pool
starts, and again when the link between the workers has been measured. The workers get the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..attention.unsupported import Unsupported
from ..config import CompressionConfig, ParallelConfig, chosen_step_reuse
from ..parallel.mesh import Degrees
from .capabilities import Lost, refusal
from .compression import resolve
from .facts import JobFacts
from .head_chunks import least_nbytes
from .link import Link
from .look_ahead import LookAhead, limited, look_ahead_for
from .memory import MemoryNeed, memory_need
from .sharing import NothingToShare, degrees_alone, degrees_for

ONE_DEVICE = "There is one device, so ComfyUI samples as always."
NO_GUESS = (
    "Step Reuse was not used: no guess was accepted when this workflow ran last. A larger tolerance accepts more and "
    "changes the picture more; else unplug Step Reuse."
)


@dataclass(frozen=True)
class EarlierRuns:
    """The findings of earlier runs of a workflow.

    `conditions`: the usual number per call; None before the first run. `idle`: the kinds of parallelism that had
    nothing to divide.
    """

    conditions: int | None = None
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RunPlan:
    """How a run is shared.

    Args:
        config: as set.
        degrees: of the mesh.
        alone: the degrees of the same workers for a call that Step Reuse evaluates by itself, not in a round of
            several.
        ahead: Step Reuse as it will be done.
        compression: as it will be done; "off" for mode "auto" until the link is known.
        whole_batch: code inside the model may depend on the whole batch of a call.
        warnings: sentences about it for the report.
        memory: what each worker needs besides the weights.
    """

    config: ParallelConfig
    degrees: Degrees = field(default_factory=Degrees)
    alone: Degrees = field(default_factory=Degrees)
    ahead: LookAhead = field(default_factory=LookAhead)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    whole_batch: bool = False
    warnings: tuple[str, ...] = ()
    memory: MemoryNeed = field(default_factory=MemoryNeed)

    def strategy_report(self) -> dict[str, Any]:
        """The strategy as set, with the degrees as they are, for the report."""
        degrees = self.degrees
        return {**self.config.strategy.to_json(), **degrees.named(), "ring_exchange": degrees.ring_exchange}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the workers."""
        return {
            "config": self.config.to_json(),
            "degrees": self.degrees.to_json(),
            "alone": self.alone.to_json(),
            "ahead": self.ahead.to_json(),
            "compression": self.compression.to_json(),
            "whole_batch": self.whole_batch,
            "warnings": self.warnings,
            "memory": self.memory.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunPlan:
        """The inverse of `to_json`."""
        return cls(
            config=ParallelConfig.from_json(data["config"]),
            degrees=Degrees.from_json(data["degrees"]),
            alone=Degrees.from_json(data["alone"]),
            ahead=LookAhead.from_json(data["ahead"]),
            compression=CompressionConfig.from_json(data["compression"]),
            whole_batch=data["whole_batch"],
            warnings=tuple(data["warnings"]),
            memory=MemoryNeed.from_json(data["memory"]),
        )


def plan_run(
    config: ParallelConfig,
    facts: JobFacts | None,
    world: int,
    link: Link | None = None,
    *,
    lost: Lost | None = None,
    seen: EarlierRuns = EarlierRuns(),
) -> RunPlan:
    """The plan of a run on `world` workers.

    Args:
        facts: None before the job is known: then only what is wrong for every job is refused.
        link: None before the workers have measured it.
        lost: the capabilities that the installed ComfyUI does not allow.
        seen: what earlier runs of this workflow showed; mode "auto" goes by it.

    Raises ConfigError or Unsupported, each with the way out, and NothingToShare where one device does as well.
    """
    lost = lost or {}
    reuse = chosen_step_reuse(config)
    if config.strategy.mode == "manual":
        config.strategy.check_world(world)
    if facts is None:
        if refused := refusal(config.strategy.degrees_set(), lost):
            raise Unsupported(refused)
        return RunPlan(config, compression=config.compression)
    if world == 1 and not reuse.enabled:
        raise NothingToShare(ONE_DEVICE)
    ahead = look_ahead_for(config, facts, lost)
    auto, idle = config.strategy.mode == "auto", seen.idle
    if facts.asked.most is None and seen.conditions is not None:
        idle |= {"cfg"} if seen.conditions < min(2, facts.asked.usual) else set()
        facts = replace(facts, asked=replace(facts.asked, usual=seen.conditions))
    if auto and "step" in idle:
        ahead = LookAhead(kind=ahead.kind, warnings=(NO_GUESS,))
    if world == 1 and not ahead.config.enabled:
        raise NothingToShare(" ".join((ONE_DEVICE, *ahead.warnings)))
    reach = ahead.config.look_ahead if ahead.config.enabled else 1
    degrees = degrees_for(config, facts, world, lost, look_ahead=reach, idle=idle)
    compression = resolve(config.compression, link, dtype_itemsize=facts.itemsize)
    against = link.against_tokens if link is not None and not compression.enabled else ""
    too_slow = auto and degrees.sequence > 1 and bool(against)
    if too_slow:
        try:
            degrees = degrees_for(config, facts, world, lost, look_ahead=reach, idle=idle | {"sequence"})
        except NothingToShare:
            raise NothingToShare(against) from None
    if link is not None:
        degrees = replace(degrees, head_chunk_nbytes=least_nbytes(link, coded=compression.enabled))
    fast = link is not None and link.fast and not against
    alone = degrees_alone(degrees, facts, lost, may_split_tokens=fast)
    ahead = limited(ahead, degrees, auto=auto)
    memory = memory_need(facts, (degrees, alone) if ahead.config.enabled else (degrees,), compression)
    warnings = (against,) if too_slow else ()
    return RunPlan(config, degrees, alone, ahead, compression, facts.sees_batch, warnings=warnings, memory=memory)
