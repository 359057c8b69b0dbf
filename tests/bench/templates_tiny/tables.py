"""Formats the results of the templates as a Markdown table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bench
from compact_parallel.workflows.client import ClientError
from templates_parts.verdicts import Verdict

from .running import SAME, TOLERANCE, Run, Runner

_WAYS = re.compile(r"\b(?:CFG|tokens|rows) x\d")
_HEADER = ("template", "family", "divided", "max difference", "with another text", "stock, s", "two workers, s")


@dataclass(frozen=True)
class Row:
    """One template: the verdict of templates.py, and the run or the error."""

    verdict: Verdict
    run: Run | None
    error: str

    @property
    def is_right(self) -> bool:
        """Whether the latents equal those of stock and every sampler was divided as templates.py says."""
        return self.run is not None and self.run.is_equal and _is_as_told(self.run, self.verdict)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the template's line in the table."""
        family = ", ".join(self.verdict.families) + (" *" if self.run and self.run.told else "")
        if self.run is None:
            return (self.verdict.name, family, self.error, *[""] * (len(_HEADER) - 3))
        run, ways = self.run, ", ".join(dict.fromkeys(self.run.ways))
        told = {_plain(way): way for way in _WAYS.findall(self.verdict.why)}
        shown = [told.get(way, way) for way in dict.fromkeys(run.ways)]
        divided = ", ".join(shown) if _is_as_told(run, self.verdict) else f"{ways or 'not'}, not as told"
        seconds = (f"{run.stock_seconds:.1f}", f"{run.parallel_seconds:.1f}")
        return (self.verdict.name, family, divided, f"{run.difference:.1e}", f"{run.control:.1e}", *seconds)


def run_or_error(runner: Runner, prompt: dict[str, Any]) -> tuple[Run | None, str]:
    """The run of a prompt, or None with the first line of the error."""
    try:
        return runner.run(prompt), ""
    except ClientError as error:
        return None, str(error).splitlines()[0]


def predicted(verdict: Verdict) -> set[str]:
    """The values of `Run.ways` that the verdict predicts."""
    return {_plain(way) for way in _WAYS.findall(verdict.why)} or {SAME}


def _is_as_told(run: Run, verdict: Verdict) -> bool:
    return len(run.ways) == run.samplers and {*run.ways} == predicted(verdict)


def _plain(way: str) -> str:
    """The way as a report names it, which calls both tokens and rows "sequence"."""
    return re.sub("tokens|rows", "sequence", way)


def text(rows: Sequence[Row]) -> str:
    """The table with one line per template, and a sentence with the number that were equal."""
    right = [row for row in rows if row.is_right]
    families = {family for row in right for family in row.verdict.families}
    summary = (
        f"{len(right)} of {len(rows)} templates, of {len(families)} families, ran to the end and gave what stock gives "
        f"(latents within {TOLERANCE:g} of the greatest number in them)."
    )
    return bench.table(_HEADER, [row.cells for row in rows]) + "\n\n" + summary
