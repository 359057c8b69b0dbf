"""Keeps the reports of the last runs of this process, and finds the report of the run that made a latent."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable

import torch
from torch.utils.weak import WeakTensorKeyDictionary

KEPT_RUNS = 50


class RunHistory:
    """Keeps the reports of the last KEPT_RUNS runs, newest last."""

    def __init__(self) -> None:
        self._reports: collections.deque[dict] = collections.deque(maxlen=KEPT_RUNS)
        self._origins: collections.deque[frozenset[str]] = collections.deque(maxlen=KEPT_RUNS)
        self._made = WeakTensorKeyDictionary()

    def add(self, report: dict, latent: torch.Tensor, origins: Iterable[str] = ()) -> None:
        """Keeps a report, to be found by the latent that the run returned or by one of `origins`.

        `origins`: keys of the workflow's nodes that made the latent.
        """
        self._reports.append(report)
        self._origins.append(frozenset(origins))
        self._made[latent] = report

    def latest(self) -> dict | None:
        """The newest report, None before the first run."""
        return self._reports[-1] if self._reports else None

    def all(self) -> list[dict]:
        """All kept reports, newest first."""
        return list(reversed(self._reports))

    def find(self, run_id: str) -> dict | None:
        """The report of the run with this id, None if it is not kept."""
        return next((report for report in self._reports if report["run_id"] == run_id), None)

    def of(self, latent: object) -> dict | None:
        """The report of the run that returned this very tensor, None if no run did."""
        return self._made.get(latent) if isinstance(latent, torch.Tensor) else None

    def made_by(self, origin: str) -> dict | None:
        """The report of the newest run with this origin (see `add`), None without one."""
        runs = zip(reversed(self._reports), reversed(self._origins))
        return next((report for report, origins in runs if origin in origins), None)


@functools.cache
def runs() -> RunHistory:
    """The one history of this process."""
    return RunHistory()
