"""Stores the report of a run so that the nodes behind it find it."""

from __future__ import annotations

import time

import torch

from ...report.history import runs
from ...report.live import LiveRun
from ...report.wording import result_line
from .executing_node import place


def keep(run: LiveRun, report: dict, result: torch.Tensor) -> None:
    """Adds the steps, the time, the node and a one-line result to the report of the run that made `result`."""
    here = place()
    told = {"prompt_id": here.prompt_id, "node": here.node} if here else {"prompt_id": "", "node": ""}
    report |= {"steps": run.step, "ended_at": time.time(), **told}
    report["result"] = result_line(report)
    runs().add(report, result, here.origins() if here else ())
    run.run_id, run.result = report["run_id"], report["result"]
