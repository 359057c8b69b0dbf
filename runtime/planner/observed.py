"""Reads from the ledgers of a run whether each kind of parallelism had something to divide, and says where it had not.

The workers' ledgers count the conditions per call, and how often work was divided or done whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .capabilities import Lost
from .facts import Asked, JobFacts
from .run_plan import RunPlan
from .sharing import against_cfg, way_out

NOT_AGAIN = "auto does not choose it again for this workflow"


@dataclass(frozen=True)
class Counted:
    """How often a kind of parallelism divided its work, over all workers; how often not, and the reasons."""

    divided: int = 0
    whole: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """The counts of a run, from its ledgers.

    `usual` and `most`: the median and the highest number of conditions per call. `counted`: by kind of parallelism, for
    those that the plan used. `workers`: the number of ledgers.
    """

    usual: int
    most: int
    counted: Mapping[str, Counted]
    workers: int

    @property
    def idle(self) -> frozenset[str]:
        """The kinds of parallelism that had nothing to divide."""
        return frozenset(kind for kind, counted in self.counted.items() if not counted.divided)

    @property
    def busy(self) -> frozenset[str]:
        """Those that had something."""
        return frozenset(self.counted) - self.idle


def observe(ledgers: Sequence[Mapping[str, Any]], plan: RunPlan) -> Observed:
    """Reads the ledgers of a run with this plan."""
    asked: Counter[int] = Counter()
    for ledger in ledgers:
        asked.update({int(conditions): calls for conditions, calls in ledger["asked"].items()})
    counts = sorted(asked.elements()) or [0]
    used = {
        "cfg": plan.degrees.cfg > 1,
        "data": plan.degrees.data > 1,
        "sequence": plan.degrees.sequence > 1,
        "step": plan.ahead.config.enabled,
    }
    counted = {kind: _sum(ledgers, kind) for kind, use in used.items() if use}
    return Observed(counts[len(counts) // 2], counts[-1], counted, len(ledgers))


def _sum(ledgers: Sequence[Mapping[str, Any]], kind: str) -> Counted:
    told = [ledger["shared"].get(kind, {"divided": 0, "whole": 0, "reasons": []}) for ledger in ledgers]
    reasons = dict.fromkeys(reason for each in told for reason in each["reasons"])
    return Counted(sum(each["divided"] for each in told), sum(each["whole"] for each in told), tuple(reasons))


def warnings(plan: RunPlan, facts: JobFacts, lost: Lost, observed: Observed) -> list[str]:
    """The sentences of a run's report about settings that had no effect, or that another would serve better."""
    return [
        *plan.warnings,
        *_unmet(plan, facts, lost, observed),
        *plan.ahead.warnings,
        *_idle(plan, facts, lost, observed),
    ]


def _unmet(plan: RunPlan, facts: JobFacts, lost: Lost, observed: Observed) -> Iterator[str]:
    degrees, auto = plan.degrees, plan.config.strategy.mode == "auto"
    if auto and facts.model.unfit:
        yield f"auto left ulysses_degree and ring_degree out: {facts.model.no_plan}."
    if plan.config.compression.mode not in ("auto", "off") and degrees.sequence == 1:
        yield (
            "Nothing was compressed: the workers share calls, batch entries or conditions, which sends one prediction "
            "per call. Residual Compression acts on ulysses_degree and ring_degree."
        )
    if observed.usual > 1 and not against_cfg(facts, lost) and degrees.cfg == 1 and degrees.step % 2 == 0:
        yield (
            f"cfg_degree 2 with step_degree {degrees.step // 2} would be as fast here as step_degree {degrees.step} "
            "and change the picture less: the calls ask for two conditions, which are two halves to share."
        )


def _idle(plan: RunPlan, facts: JobFacts, lost: Lost, observed: Observed) -> Iterator[str]:
    auto = plan.config.strategy.mode == "auto"
    seen = replace(facts, asked=Asked(observed.usual, observed.most))

    def instead(names: str) -> str:
        return NOT_AGAIN if auto else way_out(names, seen, lost)

    if "cfg" in observed.counted and observed.most < plan.degrees.cfg:
        fewer = instead("cfg_degree") if observed.most < 2 else f"set it to {observed.most}"
        yield _of_cfg(plan.degrees.cfg, observed.most, fewer)
    if "data" in observed.counted:
        yield from _of_data(observed.counted["data"], instead("data_degree"))
    if "sequence" in observed.idle:
        names = "ulysses_degree and ring_degree"
        yield (
            f"{names} did nothing in this run: no part of the model could be split, so the workers did the same work; "
            f"{instead(names)}."
        )
    if "step" in observed.idle:
        again = f"; {NOT_AGAIN}" if auto else ""
        rounds = observed.counted["step"].whole // observed.workers
        yield _of_step(rounds, plan.ahead.config.tolerance, again)


def _of_cfg(degree: int, most: int, instead: str) -> str:
    did = "did nothing in this run" if most < 2 else "left workers without work"
    return (
        f"cfg_degree {degree} {did}: no call of the model asked for more than {max(1, most)} "
        f"condition{'' if most < 2 else 's'} at a time; {instead}."
    )


def _of_data(counted: Counted, instead: str) -> Iterator[str]:
    for reason in counted.reasons:
        if counted.divided:
            yield f"data_degree did nothing in some calls, because {reason}; every worker did them whole."
        else:
            yield f"data_degree did nothing in this run, because {reason}, so every worker did it whole; {instead}."


def _of_step(rounds: int, tolerance: float, again: str) -> str:
    why = f"no guess was accepted in {rounds} round{'' if rounds == 1 else 's'}" if rounds else "every call came alone"
    more = f"a tolerance above {tolerance:g} accepts more and changes the picture more, or unplug Step Reuse"
    return f"Step Reuse did nothing in this run: {why}{'; ' + more if rounds else ''}{again}."
