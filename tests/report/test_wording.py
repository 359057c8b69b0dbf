"""The texts about a run: its state while it goes on, and its result in one line."""

from __future__ import annotations

import pytest
from compact_parallel.runtime.report.ledger import Ledger, run_report
from compact_parallel.runtime.report.live import LiveRun
from compact_parallel.runtime.report.wording import result_line, status_line


def pool(state: str, *workers: str) -> dict:
    return {"state": state, "workers": [{"state": worker} for worker in workers]}


SILENT = "worker 1 has not answered for 12 s"


def silent(*seconds: int, state: str = "sampling") -> dict:
    """A pool whose workers have not answered for so long."""
    return {"state": "sampling", "workers": [
        {"rank": rank, "state": state, "silent_seconds": since} for rank, since in enumerate(seconds)
    ]}  # fmt: skip


def report(*, sent=(0, 0), error=None, calls=4, **choices) -> dict:
    """The report of four calls on two workers, each of which sent `sent` in the first call."""
    ledger = Ledger()
    for call in range(calls):
        ledger.begin_call(call, 1.0)
        if call == 0:
            ledger.sent(*sent)
            if error is not None:
                ledger.stream_error(error, 2.0, "2bit")
    given = {"run_id": "a", "model": "Flux", "devices": ["cpu", "cpu"], "strategy": {}, "compression": {}}
    made = run_report([ledger.to_json()] * 2, **given, seconds=3.0, sampling_seconds=1.64, **choices)
    return {**made, "steps": 4}


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (report(), "2 workers, 0.41 s per step"),
        (report(sent=(10, 69), error=0.004), "2 workers, 0.41 s per step, 6.9x less data sent, worst error 0.4 %"),
        (report(sent=(20, 10)), "2 workers, 0.41 s per step"),  # exact, in 32 bits: more than 16, no claim
        (report(accepted=[1, 2, 1]), "2 workers, 0.41 s per step, 4 calls in 3 rounds"),
        (report(error=1e-9), "2 workers, 0.41 s per step, worst error below 0.001 %"),
        (report(warnings=["hm"]), "2 workers, 0.41 s per step, 1 warning"),
        (report(fallbacks=["why"]), "One device, without the workers, 0.41 s per step"),
    ],
)
def test_the_result_says_what_was_measured_and_nothing_else(told, line):
    assert result_line(told) == line


@pytest.mark.parametrize(
    ("changes", "pool", "line"),
    [
        ({}, None, "Preparing the run"),
        ({}, pool("starting", "idle", "starting"), "Starting 2 workers, 1 ready"),
        ({}, pool("sampling", "loading", "loaded"), "Loading the model on 2 workers, 1 ready"),
        ({}, pool("sampling", "sampling"), "Sampling on 1 worker"),
        ({"step": 3, "total": 20, "seconds": 1.23}, pool("sampling"), "Step 3 of 20, 0.41 s per step"),
        ({"step": 31, "total": 0, "seconds": 12.71}, pool("sampling"), "Step 31, 0.41 s per step"),
        ({}, pool("finishing", "finishing", "idle"), "Waiting for 1 worker in its last call"),
        ({"step": 3, "total": 20, "seconds": 1.23}, silent(0, 12), f"Step 3 of 20, 0.41 s per step, {SILENT}"),
        ({}, silent(0, 12, state="loading"), f"Loading the model on 2 workers, 0 ready, {SILENT}"),
        ({"outcome": "cancelled", "step": 3, "total": 20}, silent(0, 12), "Cancelled after step 3 of 20"),
        ({"outcome": "cancelled"}, pool("idle"), "Cancelled before the first step"),
        ({"outcome": "cancelled", "total": 20}, pool("idle"), "Cancelled before the first step"),
        ({"outcome": "cancelled", "step": 31, "total": 0}, pool("idle"), "Cancelled after step 31"),
        ({"outcome": "cancelled", "step": 3, "total": 20}, pool("idle"), "Cancelled after step 3 of 20"),
        ({"outcome": "done", "result": "2 workers"}, pool("starting"), "2 workers"),
    ],
)
def test_the_line_follows_the_pool_and_the_run(changes, pool, line):
    assert status_line(LiveRun("", 2, "Flux", **changes), pool) == line


def test_a_failed_run_points_to_its_error():
    assert "the tab Parallel" in status_line(LiveRun("", 2, "Flux", outcome="failed", error="why\nmore"), None)
