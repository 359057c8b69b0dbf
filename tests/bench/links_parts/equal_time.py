"""Compares PSNR and SSIM at equal wall clock: how many steps of each case fit into our time, and what they give."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bench
from compact_parallel.runtime.pool.pool import Pool
from compact_parallel.runtime.report.metrics import psnr, ssim

from .cases import BUDGET, SERIAL, Case
from .images import Image, OnLink, Result, Shape, image, workers_in
from .namespaces import Links

TOLERANCE = 0.01
"""The part by which a budget may be exceeded; times vary by more than that."""
HEADER = ("link", "budget s", "how", "steps that fit", "their seconds", "PSNR dB, worst / mean", "SSIM, worst / mean")
NOTE = (
    "Against the serial image of all steps, which is why nobody gets more steps than that. LPIPS and FID are not "
    "here: they need the weights of other networks, which cannot be had here."
)


@dataclass(frozen=True)
class _Fit:
    """The number of steps of a case that fit into the budget on one link, and their seconds."""

    rate: str
    budget: float
    case: Case
    steps: int
    seconds: float


def _seconds_by_steps(result: Result, steps: int) -> list[float]:
    """Seconds of the first 1, 2, ... steps of a measured run; steps of the warm-up take longer than later ones."""
    calls = result.images[-1].report.get("seconds_per_call", [1.0] * steps)
    return [result.seconds * part / sum(calls) for part in itertools.accumulate(calls)]


def _fits(rate: str, results: Sequence[Result], cases: Sequence[Case], steps: int) -> list[_Fit]:
    """The steps of each measured case that fit into our time; empty if our time could not be measured."""
    done = {result.case.name: result for result in results if result.images}
    if BUDGET not in done:
        return []
    budget = done[BUDGET].seconds
    found = []
    for case in (case for case in cases if case.name in done):
        times = _seconds_by_steps(done[case.name], steps)
        affordable = max(1, sum(seconds <= budget * (1 + TOLERANCE) for seconds in times))
        found.append(_Fit(rate, budget, case, affordable, times[affordable - 1]))
    return found


def table(
    links: Links,
    measured: dict[str, OnLink],
    cases: Sequence[Case],
    shape: Shape,
    seeds: int,
    say: Callable[[str], None],
) -> tuple[str, list[dict]]:
    """The table, and its rows as JSON. Images do not depend on the link, so each is made once, on an unlimited link."""
    wanted = [fit for rate in measured for fit in _fits(rate, measured[rate].results, cases, shape.steps)]
    likeness: dict[tuple[str, int], list[tuple[float, float]]] = {}
    serial = {seed: image(SERIAL, None, Shape(shape.size, shape.steps, seed)) for seed in range(seeds)}
    with workers_in(links.namespaces) as pool:
        links.limit(None)
        for fit in wanted:
            if (fit.case.name, fit.steps) not in likeness:
                say(f"  {fit.case.name}, {fit.steps} steps")
                likeness[fit.case.name, fit.steps] = _likeness(fit, pool, shape.size, serial)
    rows = [_row(fit, likeness[fit.case.name, fit.steps]) for fit in wanted]
    cells = [
        (
            row["link"],
            f"{row['budget_seconds']:.2f}",
            row["case"],
            row["steps"],
            f"{row['seconds']:.2f}",
            f"{min(row['psnr']):.1f} / {statistics.mean(row['psnr']):.1f}",
            f"{min(row['ssim']):.4f} / {statistics.mean(row['ssim']):.4f}",
        )
        for row in rows
    ]
    return bench.table(HEADER, cells), rows


def _likeness(fit: _Fit, pool: Pool, size: int, serial: dict[int, Image]) -> list[tuple[float, float]]:
    """(PSNR, SSIM) of every seed against its serial image."""
    found = []
    for seed, reference in serial.items():
        made = image(fit.case, pool, Shape(size, fit.steps, seed))
        found.append((psnr(made.picture, reference.picture), ssim(made.picture, reference.picture)))
    return found


def _row(fit: _Fit, likeness: Sequence[tuple[float, float]]) -> dict:
    return {
        "link": fit.rate,
        "budget_seconds": fit.budget,
        "case": fit.case.name,
        "steps": fit.steps,
        "seconds": fit.seconds,
        "psnr": [psnr_db for psnr_db, _ in likeness],
        "ssim": [likeness_ssim for _, likeness_ssim in likeness],
    }
