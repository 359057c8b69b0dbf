"""The state of a run while it goes on, and who is told of its changes."""

from __future__ import annotations

import threading

import pytest
from compact_parallel.runtime.report.live import Live, LiveRun


class Stopped(BaseException):
    """The user cancelled."""


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
