"""Workers that are stopped (SIGSTOP) or slow: nobody waits without a limit, and what ends says which it was."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from compact_parallel.runtime.pool import finishing
from compact_parallel.runtime.pool.errors import PoolError, WorkerSilent
from compact_parallel.runtime.report.live import live
from compact_parallel.tests.pool.support import (
    WORKERS_GONE_S,
    Background,
    Interrupted,
    answers,
    gone,
    new_pool,
    nothing,
    payload_of,
    pids,
    run,
    wait_until,
    works,
)

ANSWERED_S = 5.0
"""A cancel is over within this, whatever the workers do."""
SILENCE_S = 2.0


def stop(pid):
    os.kill(pid, signal.SIGSTOP)


def interrupt(*arguments):
    raise Interrupted("enough")


def interrupt_when(condition):
    """A check_interrupt that raises once `condition()` holds."""
    return lambda: condition() and interrupt()


@contextmanager
def raised_in_time(kind):
    """The block raises `kind`; yields a list that gets the moment of the cancel, from which the time counts."""
    moments = []
    with pytest.raises(kind):
        yield moments
    assert time.monotonic() - moments[0] < ANSWERED_S


@pytest.fixture(scope="module")
def watchful_pool():
    """A pool of two that waits no longer than SILENCE_S for an answer."""
    shared = new_pool(2, name="watchful", silence_seconds=SILENCE_S)
    yield shared
    shared.stop()


@pytest.fixture
def watchful(watchful_pool):
    """The same, started."""
    watchful_pool.start()
    return watchful_pool


def names(pool, rank, pid):
    """Whether the pool failed and says that it was because of this worker."""
    status = pool.status()
    states = [worker["state"] for worker in status["workers"]]
    said = f"Worker {rank} (cpu), process {pid}, has not answered for"
    return status["state"] == "failed" and status["error"].startswith(said) and states.index("dead") == rank


@pytest.mark.parametrize("rank", [0, 1])
def test_a_cancel_while_a_worker_is_stopped(rank, started):
    before, starts = pids(started), started.starts

    def stop_and_cancel(*step):
        stop(before[rank])
        moments.append(time.monotonic())
        interrupt()

    with raised_in_time(Interrupted) as moments:
        run(started, "until_cancelled", stop_and_cancel)
    assert names(started, rank, before[rank])
    assert gone(before)
    assert works(started)
    assert started.starts == starts + 1


def test_a_cancel_while_a_worker_is_stopped_as_it_loads(started):
    before = pids(started)

    def cancel():
        if started.state == "sampling":
            moments.append(time.monotonic())
            interrupt()

    with raised_in_time(Interrupted) as moments:
        started.run(payload_of("add", {}, prepare_stops_on=1), nothing, cancel)
    assert names(started, 1, before[1])
    assert works(started)


def test_a_cancel_while_what_a_stopped_worker_is_sent_fills_its_pipe(single):
    before = pids(single)
    stop(before[0])
    payload = payload_of("add", {}, much="x" * (32 << 20))

    def cancel():
        if single.state == "sampling":
            moments.append(time.monotonic())
            interrupt()

    with raised_in_time(Interrupted) as moments:
        Background(single.run, payload, nothing, cancel).result()
    assert names(single, 0, before[0])
    assert works(single)


def test_a_cancel_at_the_limit_is_still_a_cancel(watchful):
    before = pids(watchful)

    def stop_and_cancel(*step):
        stop(before[1])
        silence = watchful._group._heartbeat.silent_seconds
        wait_until(lambda: silence(1) >= SILENCE_S, "it has not answered for the limit")
        interrupt()

    with pytest.raises(Interrupted):
        run(watchful, "until_cancelled", stop_and_cancel)
    assert names(watchful, 1, before[1])
    assert works(watchful)


def test_a_stopped_worker_ends_the_run_without_a_cancel(watchful):
    before = pids(watchful)
    with pytest.raises(WorkerSilent, match=rf"^Worker 1 \(cpu\), process {before[1]}, has not answered for 2 s"):
        Background(run, watchful, "until_cancelled", lambda *step: stop(before[1])).result()
    assert names(watchful, 1, before[1])
    assert gone(before)
    assert works(watchful)


def test_a_worker_that_is_stopped_as_it_loads_ends_the_run_without_a_cancel(watchful):
    before = pids(watchful)
    with pytest.raises(WorkerSilent, match=rf"^Worker 0 \(cpu\), process {before[0]}, has not answered"):
        Background(watchful.run, payload_of("add", {}, prepare_stops_on=0), nothing, nothing).result()
    assert works(watchful)


def test_a_long_call_is_no_silence(watchful, tmp_path):
    """Negative control: the workers are in one call for longer than the limit, and answer all the time."""
    before, release = pids(watchful), tmp_path / "release"
    begun = time.monotonic()

    def check():
        if time.monotonic() > begun + 2 * SILENCE_S:
            release.touch()
            interrupt()

    with pytest.raises(Interrupted):
        run(watchful, "long_call", check_interrupt=check, release=str(release))
    assert watchful.status()["state"] == "idle"
    assert pids(watchful) == before


def test_a_worker_in_a_long_call_finishes_it_and_stays_warm(started, tmp_path):
    before, starts = pids(started), started.starts
    release = tmp_path / "release"

    def cancel(*step):
        moments.append(time.monotonic())
        interrupt()

    with raised_in_time(Interrupted) as moments:
        run(started, "long_call", cancel, release=str(release))
    assert started.status()["state"] == "finishing"
    assert [worker["state"] for worker in started.status()["workers"]] == ["finishing"] * 2
    assert started.park() is False
    with pytest.raises(Interrupted):  # who waits for it can give up
        run(started, "add", check_interrupt=interrupt)
    assert started.status()["state"] == "finishing"
    waiting = Background(run, started, "count", steps=3)
    release.touch()
    assert answers(waiting.result()) == [3, 3]
    assert [worker["jobs"] for worker in started.status()["workers"]] == [0, 0]
    assert works(started)
    assert (pids(started), started.starts) == (before, starts)


def test_a_finished_call_leaves_an_idle_pool_without_another_run(started, tmp_path):
    before, release = pids(started), tmp_path / "release"
    with pytest.raises(Interrupted), started.reserve(nothing):  # as the real job does, around packing and running
        run(started, "long_call", interrupt, release=str(release))
    assert started.status()["state"] == "finishing"
    release.touch()
    wait_until(started.park, "the workers are done")
    assert works(started)
    assert pids(started) == before


def test_a_run_in_the_same_reservation_waits_for_the_cancelled_one(started, tmp_path):
    before, release = pids(started), tmp_path / "release"
    with started.reserve(nothing):
        with pytest.raises(Interrupted):
            run(started, "long_call", interrupt, release=str(release))
        threading.Timer(0.3, release.touch).start()
        assert works(started)
    assert pids(started) == before


def test_a_load_that_is_cancelled_is_finished_and_forgotten(started, tmp_path):
    before, release = pids(started), tmp_path / "release"
    payload = payload_of("fail", {"on": 0, "message": "it ran"}, prepare_waits_for=str(release))
    with pytest.raises(Interrupted):
        started.run(payload, nothing, interrupt_when(lambda: started.state == "sampling"))
    assert started.status()["state"] == "finishing"
    release.touch()
    assert works(started)
    assert pids(started) == before
    assert [worker["jobs"] for worker in started.status()["workers"]] == [0, 0]


def test_a_worker_that_is_stopped_as_it_finishes_is_ended(watchful, tmp_path):
    before, release = pids(watchful), tmp_path / "release"
    with pytest.raises(Interrupted):
        run(watchful, "long_call", interrupt, release=str(release))
    stop(before[0])
    wait_until(lambda: names(watchful, 0, before[0]), "the pool gave up", 2 * SILENCE_S + 2)
    assert gone(before)
    assert works(watchful)


@pytest.mark.parametrize("how", ["stop", "restart"])
def test_stop_and_restart_while_workers_finish(how, started, tmp_path):
    before = pids(started)
    with pytest.raises(Interrupted):
        run(started, "long_call", interrupt, release=str(tmp_path / "never"))
    Background(getattr(started, how)).result(2 * WORKERS_GONE_S)
    assert gone(before)
    assert started.status()["state"] == ("stopped" if how == "stop" else "idle")
    assert works(started)


@pytest.mark.parametrize("when", ["idle", "sampling"])
def test_stop_ends_stopped_workers(when, started):
    before = pids(started)
    stopped = threading.Event()

    def stop_them(*step):
        for pid in before:
            stop(pid)
        stopped.set()

    job = Background(run, started, "until_cancelled", stop_them) if when == "sampling" else None
    if job is None:
        stop_them()
    assert stopped.wait(10)
    Background(started.stop).result(WORKERS_GONE_S)
    if job is not None:
        with pytest.raises(PoolError, match="was stopped while it was in use"):
            job.result(1)
    assert gone(before)
    assert works(started)


def test_a_worker_that_was_stopped_while_idle_costs_a_restart_only(watchful):
    before, starts = pids(watchful), watchful.starts
    stop(before[1])
    wait_until(watchful._group.fault, "it has not answered for the limit", 2 * SILENCE_S + 2)
    assert works(watchful)
    assert gone(before)
    assert watchful.starts == starts + 1
    assert [sentence for sentence in watchful.notices if "Worker 1 (cpu) had not answered for" in sentence]
    assert works(watchful)
    assert watchful.notices == ()


def test_parking_ends_a_stopped_worker(watchful):
    before = pids(watchful)
    stop(before[1])
    assert Background(watchful.park).result(2 * SILENCE_S + 2) is True
    assert names(watchful, 1, before[1])
    assert gone(before)
    assert works(watchful)


def test_nobody_waits_for_parking_after_a_cancel(single):
    before = pids(single)
    stop(before[0])
    assert Background(single.park, lambda: True).result(ANSWERED_S) is True
    assert names(single, 0, before[0])
    assert works(single)


def test_a_worker_that_is_stopped_as_it_starts(own_pool, monkeypatch):
    fresh = own_pool(2, start_timeout_s=60.0)
    monkeypatch.setenv("TEST_PROBE_STOPS_ON", "1")

    def check():
        workers = fresh.status()["workers"]
        if workers[1]["silent_seconds"]:
            moments.append(time.monotonic())
            interrupt()

    with raised_in_time(Interrupted) as moments:
        Background(fresh.start, check).result()
    monkeypatch.delenv("TEST_PROBE_STOPS_ON")
    assert works(fresh)


def test_the_status_says_since_when_a_worker_does_not_answer_and_tells_of_it(started, monkeypatch):
    """Also while the thread that runs the job is in a callback; a worker that goes on costs nothing."""
    before, starts = pids(started), started.starts
    told, callback_s = [], 10.0
    monkeypatch.setattr(live(), "_listeners", [lambda: told.append(silent())])

    def silent():
        return [worker["silent_seconds"] for worker in started.status()["workers"]]

    def stop_for_a_while(step, total, payload):
        if step == 0:
            assert silent() == [0, 0]
            stop(before[1])
            wait_until(lambda: [0, 4] in told, "it is told of, second by second", callback_s)
            assert [0, 3] in told
            os.kill(before[1], signal.SIGCONT)
            wait_until(lambda: told[-1] == [0, 0], "it is told that it answers again", callback_s)

    assert answers(run(started, "count", stop_for_a_while, steps=4)) == [4, 4]
    assert (pids(started), started.starts) == (before, starts)


def test_asking_costs_a_worker_next_to_nothing_and_piles_up_nowhere(started):
    before = pids(started)
    stop(before[1])
    wait_until(lambda: started.status()["workers"][1]["silent_seconds"] >= 4, "it was asked in vain", 10)
    members = started._group.members
    assert [member.handle._mailbox._outbox.qsize() for member in members] == [0, 0]
    os.kill(before[1], signal.SIGCONT)
    wait_until(lambda: started.status()["workers"][1]["silent_seconds"] == 0, "it answers again")
    assert works(started)
    assert pids(started) == before


def test_the_limit_for_finishing_names_who_is_late(single, monkeypatch):
    monkeypatch.setattr(finishing, "FINISH_SECONDS", 0.5)
    with pytest.raises(Interrupted):
        run(single, "deaf", interrupt)
    wait_until(lambda: single.status()["state"] == "failed", "the pool gave up")
    assert single.status()["error"].startswith("Worker 0 (cpu) did not come to an end within 0.5 s after a cancel")
    assert works(single)
