"""The settings that ParaStep was published with: what the same pipelines take here, counted on real ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tiny_pipelines
from compact_parallel.runtime.config import StepReuseConfig
from distributed import launch

from .ranks import counted

TIMEOUT_S = 3600
OURS = StepReuseConfig()


class Published(NamedTuple):
    """A pipeline of the paper: its name there, steps and warm-up, and the best speed-up that is published."""

    title: str
    steps: int
    warmup: int
    speedup: float | None


PUBLISHED = {
    "svd": Published("SVD", 50, 5, 3.88),
    "cogvideox": Published("CogVideoX-2b", 50, 13, 2.43),
    "audioldm2": Published("AudioLDM2-large", 200, 5, 6.56),
    "latte": Published("Latte", 50, 13, None),
}

Case = tuple[str, int, int, int]
Found = dict[tuple[Case, int], list[dict[str, Any]]]


def cases() -> list[Case]:
    """(name, steps, warm-up, tail): the published warm-up with our tail and with ParaStep's none, then our defaults."""
    found = []
    for name, paper in PUBLISHED.items():
        for warmup, tail in ((paper.warmup, OURS.tail_calls), (paper.warmup, 0), (OURS.warmup_calls, OURS.tail_calls)):
            found.append((name, paper.steps, warmup, tail))
    return found


def computed(folder: Path, worlds: Sequence[int]) -> tuple[tuple[str, ...], list[tuple], Found]:
    """Header, rows, and what they are made of: by case and number of ranks, the count of each rank."""
    pipelines = folder / "pipelines"
    for name in PUBLISHED:  # before there are ranks: transformers lets only rank 0 write a model
        tiny_pipelines.saved(name, pipelines)
    found: Found = {}
    for world in worlds:
        by_rank = launch(counted, world, folder, pipelines, cases(), timeout_s=TIMEOUT_S, imports=("diffusers",))
        found |= {(case, world): [counts[place] for counts in by_rank] for place, case in enumerate(cases())}
    rows = []
    for case in cases():
        name, steps, warmup, tail = case
        cells = [_cell(found[case, world], steps) for world in worlds]
        speedup = PUBLISHED[name].speedup
        rows.append((PUBLISHED[name].title, steps, warmup, tail, *cells, speedup or "none"))
    header = ("pipeline", "steps", "warm-up", "tail", *(f"p = {world}" for world in worlds), "published")
    return header, rows, found


def _cell(counts: Sequence[dict[str, Any]], steps: int) -> str:
    rounds = len(counts[0]["accepted"])
    evaluations = sorted({count["evaluations"] for count in counts}, reverse=True)
    return f"{steps / rounds:.2f} in {rounds} rounds, {' or '.join(map(str, evaluations))} per rank"


def verdicts(found: Found, world: int) -> list[str]:
    """A line per pipeline with a published speed-up: which of our settings reaches it."""
    lines = []
    for name, paper in PUBLISHED.items():
        if paper.speedup is None:
            continue
        ours = {case: paper.steps / len(found[case, world][0]["accepted"]) for case in cases() if case[0] == name}
        passing = [f"warm-up {case[2]}, tail {case[3]}: {speedup:.2f}" for case, speedup in ours.items()
                   if speedup >= paper.speedup]  # fmt: skip
        short = [f"warm-up {case[2]}, tail {case[3]}: {speedup:.2f}" for case, speedup in ours.items()
                 if speedup < paper.speedup]  # fmt: skip
        reached = f"reached with {'; '.join(passing)}" if passing else "not reached"
        lines.append(
            f"- {paper.title}, published {paper.speedup}: p = {world} computed, {reached}"
            + (f"; not with {'; '.join(short)}" if passing and short else "")
            + "."
        )
    return lines
