"""The plan of a run by xDiT's own pipeline: stages of PipeFusion, conditions and tokens over the workers."""

from __future__ import annotations

from ...attention.unsupported import Unsupported
from ...config import ConfigError, ParallelConfig, StrategyConfig, XditConfig
from ...parallel.mesh import Degrees
from ...planner.compression import resolve
from ...planner.facts import JobFacts
from ...planner.link import Link
from ...planner.run_plan import RunPlan
from .exchange import require_supported

NO_STEPS = (
    "Step Reuse does not work with engine xdit, which evaluates one step after the other; unplug it, or set engine to "
    "diffusers."
)


def plan_xdit(config: ParallelConfig, settings: XditConfig, facts: JobFacts, world: int, link: Link | None) -> RunPlan:
    """The plan of a run on all `world` workers; its degrees leave out the stages of PipeFusion.

    In mode "auto" two halves of the workers of a stage take a condition each where there are two; the rest share the
    heads, or the tokens where the heads do not divide. Raises ConfigError or Unsupported, with the way out.
    """
    if config.step_reuse.enabled:
        raise Unsupported(NO_STEPS)
    strategy, stages = config.strategy, settings.pipefusion_degree
    degrees = _as_set(strategy) if strategy.mode == "manual" else _chosen(facts, world, stages)
    if degrees.world * stages != world:
        raise ConfigError(
            f"pipefusion_degree {stages} times the other degrees, {degrees.world}, is {degrees.world * stages}, but "
            f"there are {world} workers; change pipefusion_degree, the degrees of Parallel Strategy, or devices."
        )
    compression = resolve(config.compression, link, dtype_itemsize=facts.itemsize)
    if compression.enabled and degrees.sequence > 1:
        require_supported(compression)
    return RunPlan(config, degrees, degrees, compression=compression)


def _as_set(strategy: StrategyConfig) -> Degrees:
    named = strategy.degrees_set()
    sizes = {name.removesuffix("_degree"): size for name, size in named.items()}
    return Degrees(**sizes, ring_exchange=strategy.ring_exchange, overlap=strategy.overlap, split_asked=True)


def _chosen(facts: JobFacts, world: int, stages: int) -> Degrees:
    rest = max(1, world // stages)
    cfg = 2 if facts.asked.usual == 2 and rest % 2 == 0 else 1
    shares = rest // cfg
    by_heads = facts.model.heads is not None and facts.model.heads % shares == 0
    return Degrees(cfg=cfg, **{"ulysses" if by_heads else "ring": shares})
