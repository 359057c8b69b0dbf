"""What goes wrong with workers, for real: the error says what it was, nothing hangs or stays, the next run works."""

import os
import signal
import threading
import time

import psutil
import pytest
from compact_parallel.runtime.pool import job_run, pool, worker_group
from compact_parallel.runtime.pool.errors import JobFailed, PoolError, WorkerDied
from compact_parallel.tests.pool.support import (
    WORKERS_GONE_S,
    Background,
    Interrupted,
    answers,
    gone,
    nothing,
    pids,
    run,
    wait_until,
    works,
)

NOTICED_S = 5.0


class Stopwatch:
    """Seconds since `start`."""

    def start(self):
        self._started = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self._started


@pytest.fixture
def watch():
    return Stopwatch()


def test_an_interrupt_during_the_start_leaves_no_process(own_pool):
    fresh = own_pool(2, handler="handlers:NeverReady")
    seen = []

    def check():
        seen.extend(pids(fresh))
        raise Interrupted("during the start")

    with pytest.raises(Interrupted):
        run(fresh, "add", check_interrupt=check)
    assert len(seen) == 2
    assert gone(seen)
    assert fresh.status()["state"] == "failed"


def test_a_start_that_takes_too_long_names_the_worker(own_pool):
    fresh = own_pool(2, handler="handlers:NeverReady", start_timeout_s=0.7)
    seen = set()
    with pytest.raises(PoolError, match=r"start_timeout_s.*worker 1 \(cpu\).*0\.7 s"):
        fresh.start(lambda: seen.update(pids(fresh)))
    assert len(seen) == 2
    assert gone(seen)


def test_a_handler_that_cannot_be_imported_gives_the_traceback(own_pool):
    fresh = own_pool(1, handler="broken_handler:Handler")
    with pytest.raises(WorkerDied, match="the broken handler was imported") as caught:
        fresh.start()
    assert "Traceback" in str(caught.value)
    assert "broken_handler.py" in str(caught.value)
    assert fresh.status()["state"] == "failed"
    assert "the broken handler was imported" in fresh.status()["error"]


def test_an_error_on_one_rank_is_reported_while_the_other_waits_for_it(started, watch):
    before, starts = pids(started), started.starts
    watch.start()
    with pytest.raises(JobFailed, match="out of nails") as caught:
        run(started, "fail", on=1, message="out of nails")
    assert watch.seconds < NOTICED_S
    assert caught.value.kind == "ValueError"
    assert "worker 1 (cpu)" in str(caught.value)
    assert "in fail" in str(caught.value)
    assert gone(before)
    assert works(started)
    assert started.starts == starts + 1


def test_an_error_that_every_rank_meets_leaves_the_workers_warm_and_nothing_on_its_way(started):
    before, starts = pids(started), started.starts
    for message in ("out of nails", "out of nails again"):
        with pytest.raises(JobFailed, match=message) as caught:
            run(started, "fail_everywhere", message=message, left=1.0)
        assert caught.value.kind == "ValueError"
        assert "in fail_everywhere" in str(caught.value)
        assert (started.state, started.status()["error"]) == ("idle", "")
        assert answers(Background(run, started, "pass_on", value=7.0).result()) == [7.0, 7.0]
    assert (pids(started), started.starts) == (before, starts)
    assert works(started)


def test_without_new_connections_the_next_job_would_meet_the_message(started, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(worker_group.WorkerGroup, "renew", lambda *_: True)
    with pytest.raises(JobFailed):
        run(started, "fail_everywhere", message="out of nails", left=1.0)
    assert answers(Background(run, started, "pass_on", value=7.0).result()) == [7.0, 1.0]
    started.restart()


def test_an_error_that_leaves_a_device_broken_ends_the_workers(own_pool):
    fresh = own_pool(2, handler="handlers:CannotRenew")
    fresh.start()
    before = pids(fresh)
    with pytest.raises(JobFailed, match="out of nails"):
        run(fresh, "fail_everywhere", message="out of nails", left=1.0)
    assert gone(before)
    assert fresh.status()["state"] == "failed"
    assert works(fresh)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_killed_during_a_job_is_named(rank, started, watch):
    before, starts = pids(started), started.starts
    assert len(before) == 2

    def kill(step, total, payload):
        if payload == b"0":
            watch.start()
            os.kill(before[rank], signal.SIGKILL)

    with pytest.raises(WorkerDied, match=rf"Worker {rank} \(cpu\), process {before[rank]}, ended with signal 9"):
        run(started, "wait_in_collective", kill)
    assert watch.seconds < NOTICED_S
    assert gone(before)
    assert started.status()["state"] == "failed"
    assert f"process {before[rank]}" in started.status()["error"]
    assert works(started)
    assert started.starts == starts + 1


DEATHS = [("slowly", "exit code 3"), ("crash", "signal 11")]


@pytest.mark.parametrize(("how", "says"), DEATHS)
def test_a_worker_that_ends_by_itself_leaves_its_last_words(how, says, started):
    before = pids(started)
    with pytest.raises(WorkerDied, match=rf"Worker 1 .* ended with {says}") as caught:
        run(started, "end", on=1, how=how)
    assert "these are the last words" in str(caught.value)
    assert ("in string_at" in str(caught.value)) == (how == "crash")
    assert gone(before)
    assert works(started)


def test_a_job_that_calls_exit_is_an_error_with_its_traceback(single):
    with pytest.raises(JobFailed, match="enough for today") as caught:
        run(single, "end", on=0, how="sys.exit")
    assert caught.value.kind == "SystemExit"
    assert "worker 0 (cpu)" in str(caught.value)
    assert "in end" in str(caught.value)


def test_a_worker_killed_while_idle_costs_a_restart_only(started):
    before, starts = pids(started), started.starts
    os.kill(before[1], signal.SIGKILL)
    wait_until(lambda: started.status()["workers"][1]["state"] == "dead", "the status says so")
    assert started.status()["workers"][0]["state"] == "idle"
    assert works(started)
    assert started.starts == starts + 1
    assert gone(before)


def test_a_result_that_is_not_plain_data_is_an_error_not_a_hang(single):
    with pytest.raises(JobFailed, match="plain data only, not Tensor"):
        Background(run, single, "rude").result()
    assert works(single)


def test_stop_in_the_middle_of_a_job(single):
    before = pids(single)
    running = threading.Event()
    job = Background(run, single, "deaf", lambda *step: running.set())
    assert running.wait(10)
    Background(single.stop).result(WORKERS_GONE_S)
    with pytest.raises(PoolError, match="was stopped while it was in use"):
        job.result(1)
    assert gone(before)
    assert (single.status()["state"], single.status()["error"]) == ("stopped", "")
    assert works(single)


def test_stop_in_the_middle_of_a_start(own_pool):
    fresh = own_pool(2, handler="handlers:NeverReady")
    launched = threading.Event()
    start = Background(fresh.start, launched.set)
    assert launched.wait(10)
    seen = pids(fresh)
    Background(fresh.stop).result(WORKERS_GONE_S)
    with pytest.raises(PoolError, match="was stopped while it was in use"):
        start.result(1)
    assert gone(seen)
    assert fresh.status()["state"] == "stopped"


def test_one_of_two_who_stop_at_once_does_not_speak_for_the_other(single, monkeypatch):
    """Who waits for the workers may come in between the two; they then end because they are stopped, by the second."""
    kill, end, killers, stopping = single._group.kill, single._group.end, set(), []
    monkeypatch.setattr(single._group, "kill", lambda: (killers.add(threading.get_ident()), kill()))
    monkeypatch.setattr(single._group, "end", lambda: (stopping.append(bool(single._group.stopping)), end()))
    with single.reserve(nothing):
        stops = [Background(single.stop) for _ in range(2)]
        wait_until(lambda: len(killers) == 2, "both wait for the workers")
    for stop in stops:
        stop.result(WORKERS_GONE_S)
    assert stopping == [True, True]
    assert not single._group.stopping
    assert works(single)


def test_stop_between_reserving_and_running(single):
    """The holder of a reservation packs its job meanwhile; its run must not bring the pool back."""
    with single.reserve(nothing):
        before, starts = pids(single), single.starts
        stop = Background(single.stop)
        wait_until(lambda: gone(before), "stop has killed the workers")
        with pytest.raises(PoolError, match="was stopped"):
            run(single, "deaf")
    stop.result(WORKERS_GONE_S)
    assert single.status()["state"] == "stopped"
    assert single.starts <= starts + 1
    assert works(single)


def test_an_idle_pool_stops_but_not_before_and_not_while_it_is_used(own_pool, watch):
    brief = own_pool(1, idle_seconds=0.5)
    clock = threading.Event()
    run(brief, "count", lambda *step: clock.wait(0.2), steps=4)
    before = pids(brief)
    with brief.reserve(nothing):
        clock.wait(0.8)
    watch.start()
    wait_until(lambda: brief.status()["state"] == "stopped", "the idle pool has stopped")
    assert watch.seconds >= 0.45
    assert gone(before)
    assert brief.starts == 1


def test_an_idle_stop_that_meets_a_busy_moment_is_not_lost(own_pool):
    """A park or a look at the pool at the very moment must not keep its workers for ever."""
    brief = own_pool(1, idle_seconds=0.2)
    brief.start()
    with brief._lock:
        threading.Event().wait(0.5)
        assert brief.state == "idle"
    wait_until(lambda: brief.status()["state"] == "stopped", "the idle pool has stopped")


def test_a_worker_that_dies_of_parking_is_reported(own_pool):
    fresh = own_pool(1, handler="handlers:CannotPark")
    fresh.start()
    before = pids(fresh)
    assert fresh.park() is True
    assert fresh.status()["state"] == "failed"
    assert "the car park is full" in fresh.status()["error"]
    assert gone(before)


def test_ctrl_c_during_a_run(started):
    """The signal may arrive anywhere inside run."""
    fired = []

    def press(step, total, payload):
        fired.append(threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)))
        fired[0].start()

    with pytest.raises(KeyboardInterrupt):
        run(started, "until_cancelled", press)
    fired[0].join()
    assert started.status()["state"] in ("idle", "finishing", "failed")
    assert works(started)


def test_a_second_ctrl_c_while_the_first_is_handled(single, monkeypatch):
    """Workers that were left inside a job are not taken for idle ones."""
    before = pids(single)

    def press(*step):
        raise KeyboardInterrupt("first")

    def press_again():
        raise KeyboardInterrupt("second")

    with monkeypatch.context() as patched:
        patched.setattr(job_run, "CANCEL_SECONDS", 0.0)
        patched.setattr(pool, "UNHEARD_SECONDS", 0.0)
        patched.setattr(single, "_stop_workers", press_again)
        with pytest.raises(KeyboardInterrupt, match="second"):
            run(single, "deaf", press)
    assert not gone(before)
    assert Background(works, single).result()
    assert gone(before)


def test_a_restart_ends_the_workers_and_what_they_have_started(single):
    """As the processes of torch.compile, a child holds the worker's log open."""
    before, starts = pids(single), single.starts
    children = answers(run(single, "start_child"))
    assert not gone(children)
    Background(single.restart).result()
    assert gone(before)
    wait_until(lambda: gone(children), "the children are gone")
    assert single.status()["state"] == "idle"
    assert single.starts == starts + 1
    assert not gone(pids(single))


def test_nothing_is_left_after_many_starts_and_stops(own_pool, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fresh = own_pool(2)

    def give_up():
        raise Interrupted("at once")

    def cycle():
        with pytest.raises(Interrupted):
            fresh.start(give_up)
        fresh.stop()

    cycle()
    us = psutil.Process()
    before = us.num_fds(), threading.active_count()
    for _ in range(20):
        cycle()
    fresh.start()
    seen = pids(fresh)
    assert list(tmp_path.iterdir()) == [fresh.store.directory]
    assert us.num_fds() > before[0]
    assert works(fresh)
    fresh.stop()
    wait_until(lambda: (us.num_fds(), threading.active_count()) == before, "handles and threads are given back")
    assert list(tmp_path.iterdir()) == []
    assert gone(seen)
    assert not [child for child in us.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]
