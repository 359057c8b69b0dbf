"""The restarts in a report are those that its run needed."""

from __future__ import annotations

import psutil
from compact_parallel.runtime.comfy.run import outer_sample
from compact_parallel.runtime.report.summary import summarize
from sampling import TOLERANCE, expected, ksampler, model, parallel, pool, relative_error, report


def test_workers_that_stopped_between_runs_are_no_restart_of_the_next():
    patcher = parallel(model("flux"), 2, ring_degree=2)
    ksampler(patcher, "flux")
    assert report()["restarts"] == 0
    starts = pool(2).starts
    pool(2).stop()  # as it does when it was idle for long
    ksampler(patcher, "flux")
    assert pool(2).starts == starts + 1
    assert report()["restarts"] == 0
    assert "restarted" not in summarize(report())


def test_a_worker_that_died_when_the_run_had_begun_is_one(monkeypatch):
    patcher = parallel(model("flux"), 2, ring_degree=2)
    ksampler(patcher, "flux")
    starts = pool(2).starts

    def make_room_and_die(reserved, *args):
        worker = psutil.Process(reserved.status()["workers"][1]["pid"])
        worker.kill()
        worker.wait(30)

    monkeypatch.setattr(outer_sample, "make_room", make_room_and_die)
    samples = ksampler(patcher, "flux")
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE
    assert pool(2).starts == starts + 1
    assert (report()["restarts"], report()["resumed_calls"]) == (1, 0)
    assert "restarted" in summarize(report())
