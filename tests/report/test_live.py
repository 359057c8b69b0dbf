"""What is told of a run while it goes on, and in one line at its end."""

from __future__ import annotations

import threading

import pytest
from compact_parallel.runtime.report.ledger import Ledger, run_report
from compact_parallel.runtime.report.live import Live, LiveRun, result_line, status_line


class Stopped(BaseException):
    """The user cancelled."""


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


def test_a_run_is_told_from_its_beginning_to_its_end():
    live, told = Live(), []
    live.listen(lambda: told.append(live.of("")))
    run = LiveRun("", 2, "Flux")
    seen = []
    live.listen(lambda: seen.append((run.step, run.outcome)))
    with live.run(run, Stopped):
        live.step(run, 1, 4, {"seconds": 0.5, "bytes_sent": 10, "bytes_uncompressed": 40})
        live.step(run, 2, 4, {"seconds": 0.8, "bytes_sent": 20, "bytes_uncompressed": 90})
    assert seen == [(0, ""), (1, ""), (2, ""), (2, "done")]
    assert told == [run] * 4
    told = run.to_json()
    assert (told["seconds_per_step"], told["effective_ratio"], told["total"]) == (0.4, 4.5, 4)


def test_a_run_that_has_sent_nothing_has_no_ratio():
    told = LiveRun("", 2, "Flux").to_json()
    assert (told["seconds_per_step"], told["effective_ratio"]) == (None, None)


@pytest.mark.parametrize(
    ("error", "outcome", "message"),
    [(ValueError("too wide"), "failed", "too wide"), (Stopped(), "cancelled", ""), (OSError(), "failed", "OSError")],
)
def test_a_run_that_raises_says_how_it_ended(error, outcome, message):
    live, run = Live(), LiveRun("mine", 2, "Flux")
    seen = []
    live.listen(lambda: seen.append(run.outcome))
    with pytest.raises(type(error)), live.run(run, Stopped):
        raise error
    assert (run.outcome, run.error, seen) == (outcome, message, ["", outcome])
    assert live.of("mine") is run and live.runs() == [run]


def test_the_next_run_of_a_pool_takes_the_place_of_the_last():
    live = Live()
    first, second, other = LiveRun("", 2, "Flux"), LiveRun("", 2, "Wan"), LiveRun("other", 2, "SD3")
    for run in (first, other, second):
        with live.run(run, Stopped):
            assert live.of(run.pool) is run
    assert live.runs() == [second, other]


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


def test_a_listener_that_raises_does_not_end_a_run(caplog):
    live, told = Live(), []

    def broken():
        raise ValueError("the browser is gone")

    live.listen(broken)
    live.listen(lambda: told.append(1))
    with live.run(LiveRun("", 2, "Flux"), KeyboardInterrupt):
        pass
    assert len(told) == 2
    assert "the browser is gone" in caplog.text


def test_what_is_told_last_is_what_is_so_whichever_thread_tells_it():
    several, state, told = Live(), ["old"], []
    looked, may_tell = threading.Event(), threading.Event()

    def listen():
        seen = state[0]
        looked.set()
        if seen == "old":
            may_tell.wait(10)
        told.append(seen)

    several.listen(listen)
    first, second = (threading.Thread(target=several.changed, daemon=True) for _ in range(2))
    first.start()
    assert looked.wait(10)
    state[0] = "new"
    second.start()
    second.join(timeout=0.3)  # one that tells of it at once is done by now
    may_tell.set()
    for thread in (first, second):
        thread.join(10)
    assert told == ["old", "new"]
