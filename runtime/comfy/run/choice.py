"""The plan of a run, from the job's facts and from earlier runs of its workflow; records what the run shows in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...attention.unsupported import Unsupported
from ...config import ParallelConfig, chosen_step_reuse
from ...planner.capabilities import STEP
from ...planner.experience import TRIES, experience
from ...planner.facts import JobFacts
from ...planner.link import Link
from ...planner.observed import observe, warnings
from ...planner.run_plan import ONE_DEVICE, EarlierRuns, RunPlan, plan_run
from ...planner.sharing import NothingToShare
from ...pool.errors import PoolError, Stopped
from ...pool.pool import Pool
from ...pool.registry import pools
from ..describe.describe import describe
from ..fits import lost
from .devices import hidden_cards, remarks, this_machine
from .fallback import told

# Failures that were wanted, or cost no more than the start of a run. NotReturned is not among them: it is raised at the
# end of a run.
CHEAP = ("Refused", "Cancelled")


class Rearranged(Exception):
    """The link, now that it is measured, asks for fewer workers than were started; a new choice knows it."""


@dataclass(frozen=True)
class Choice:
    """The facts of a run and its plan. `seen`: what earlier runs of `workflow`, its key in `experience`, have shown."""

    config: ParallelConfig
    facts: JobFacts
    world: int
    workflow: tuple
    seen: EarlierRuns
    plan: RunPlan

    def with_link(self, pool: Pool) -> RunPlan:
        """The plan once the workers have measured the link between them. Raises Rearranged or NothingToShare."""
        workers = self.plan.degrees.world
        plan = _planned(self.config, self.facts, self.world, pool, self.seen)
        if plan.degrees.world > workers:
            plan = _planned(self.config, self.facts, workers, pool, self.seen)
        if plan.degrees.world < workers:
            raise Rearranged
        return plan

    def expect_failure(self, pool: Pool) -> None:
        """Raises Unsupported if the workers failed at this repeatedly and on_unsupported is "run on one device".

        With "error" the user decides whether to try again.
        """
        why = experience().expected_failure(self.workflow, pool.starts)
        if why and self.config.on_unsupported != "error":
            raise Unsupported(
                f"The workers were not asked again, as they failed {TRIES} times in a row or more; restart them in the "
                f"tab Parallel to have it tried. Last time: {why}"
            )

    @contextlib.contextmanager
    def noting_failures(self, pool: Pool) -> Iterator[None]:
        """Records an error that ends the block, if it is a failure of the workers."""
        try:
            yield
        except PoolError as error:
            if not isinstance(error, Stopped) and getattr(error, "kind", "") not in CHEAP:
                experience().failed(self.workflow, pool.starts, told(error))
            raise

    def learn(self, ledgers: Sequence[Mapping[str, Any]]) -> list[str]:
        """Records what the run has shown about its calls. Returns the warnings for its report."""
        observed = observe(ledgers, self.plan)
        experience().learn(self.facts.asking, observed.usual)
        experience().ran(self.workflow, observed.busy, observed.idle)
        return [*warnings(self.plan, self.facts, lost(), observed), *remarks(self.config)]


def choose(config: ParallelConfig, world: int, guider: Any, arguments: Any) -> Choice:
    """The choice for a run on `world` workers. Raises ConfigError, Unsupported or NothingToShare.

    It knows the link that the workers measured at their last start, if they were started.
    """
    looks_ahead = chosen_step_reuse(config).enabled
    try:
        if world == 1 and not (looks_ahead and this_machine().has_workers):
            raise NothingToShare(ONE_DEVICE)
        # A ComfyUI without what Step Reuse needs may lack what the count needs, too.
        facts = describe(guider, arguments, count_calls=looks_ahead and STEP not in lost())
        workflow = config, facts.workflow
        seen = EarlierRuns(experience().conditions(facts.asking), experience().idle(workflow))
        pool = pools().find(config.pool.name)
        known = pool if pool is not None and pool.config == config.pool else None
        return Choice(config, facts, world, workflow, seen, _planned(config, facts, world, known, seen))
    except NothingToShare as nothing:
        if world > 1:
            raise
        raise NothingToShare(" ".join((str(nothing), *remarks(config), hidden_cards())).rstrip()) from None


def _planned(config: ParallelConfig, facts: JobFacts, world: int, pool: Pool | None, seen: EarlierRuns) -> RunPlan:
    """The plan with the link that `pool` has measured, if any. Raises as `plan_run`; a slow link is explained."""
    link = Link.from_json(pool.link) if pool is not None and pool.link else None
    try:
        return plan_run(config, facts, world, link, lost=lost(), seen=seen)
    except NothingToShare as nothing:
        if link is None or str(nothing) != link.against_tokens:
            raise
        raise NothingToShare(" ".join((str(nothing), *pool.notices))) from None
