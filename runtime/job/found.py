"""Finds out after a run whether each kind of parallelism had something to divide, from the workers' ledgers.

The ledgers count the conditions per call, and how often work was divided or done whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..config import ParallelConfig
from ..parallel.mesh import Degrees
from .asking import Asked
from .checks import way_out

NOT_AGAIN = "auto does not choose it again for this workflow"


@dataclass(frozen=True)
class Found:
    """`conditions`: the median number per call. `busy` and `idle`: the kinds of parallelism with something to divide,
    and with nothing. `warnings`: sentences about those that had nothing, in the whole run or in some calls.
    """

    conditions: int
    busy: frozenset[str]
    idle: frozenset[str]
    warnings: tuple[str, ...]


def found_in(
    ledgers: Sequence[dict[str, Any]], config: ParallelConfig, degrees: Degrees, guider: Any, noise: torch.Tensor
) -> Found:
    """The findings of a run with these degrees; `config.step_reuse` is as it was in fact done."""
    asked: Counter[int] = Counter()
    for ledger in ledgers:
        asked.update({int(conditions): calls for conditions, calls in ledger["asked"].items()})
    counts = sorted(asked.elements()) or [0]
    usual, most = counts[len(counts) // 2], counts[-1]
    used = {
        "cfg": degrees.cfg > 1,
        "data": degrees.data > 1,
        "sequence": degrees.sequence > 1,
        "step": config.step_reuse.enabled,
    }
    shared = {kind: _sum(ledgers, kind) for kind, use in used.items() if use}
    idle = frozenset(kind for kind, counted in shared.items() if not counted["divided"])
    instead = partial(way_out, guider=guider, noise=noise, asked=Asked(usual, most))
    if config.strategy.mode == "auto":
        instead = lambda names: NOT_AGAIN  # noqa: E731
    warnings: list[str] = []
    if "cfg" in shared and most < degrees.cfg:
        warnings.append(_of_cfg(degrees.cfg, most, instead("cfg_degree") if most < 2 else f"set it to {most}"))
    if "data" in shared:
        warnings += _of_data(shared["data"], instead("data_degree"))
    if "sequence" in idle:
        names = "ulysses_degree and ring_degree"
        warnings.append(
            f"{names} did nothing in this run: no part of the model could be split, so the workers did the same work; "
            f"{instead(names)}."
        )
    if "step" in idle:
        again = f"; {NOT_AGAIN}" if config.strategy.mode == "auto" else ""
        warnings.append(_of_step(shared["step"]["whole"] // len(ledgers), config.step_reuse.tolerance, again))
    return Found(usual, frozenset(shared) - idle, idle, tuple(warnings))


def _sum(ledgers: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The sum of all ranks' counts for one kind of parallelism; zeros if it is in no ledger."""
    counted = [ledger["shared"].get(kind, {"divided": 0, "whole": 0, "reasons": []}) for ledger in ledgers]
    reasons = dict.fromkeys(reason for each in counted for reason in each["reasons"])
    return {**{name: sum(each[name] for each in counted) for name in ("divided", "whole")}, "reasons": list(reasons)}


def _of_cfg(degree: int, most: int, instead: str) -> str:
    did = "did nothing in this run" if most < 2 else "left workers without work"
    return (
        f"cfg_degree {degree} {did}: no call of the model asked for more than {max(1, most)} "
        f"condition{'' if most < 2 else 's'} at a time; {instead}."
    )


def _of_data(counted: dict[str, Any], instead: str) -> Iterator[str]:
    for reason in counted["reasons"]:
        if counted["divided"]:
            yield f"data_degree did nothing in some calls, because {reason}; every worker did them whole."
        else:
            yield f"data_degree did nothing in this run, because {reason}, so every worker did it whole; {instead}."


def _of_step(rounds: int, tolerance: float, again: str) -> str:
    why = f"no guess was accepted in {rounds} round{'' if rounds == 1 else 's'}" if rounds else "every call came alone"
    more = f"a tolerance above {tolerance:g} accepts more and changes the picture more, or unplug Step Reuse"
    return f"Step Reuse did nothing in this run: {why}{'; ' + more if rounds else ''}{again}."
