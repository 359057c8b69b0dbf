"""Jobs that go as they should, on real processes with real collectives: results, progress, reuse, cancel, park."""

import json
import logging
import threading

import psutil
import pytest
from compact_parallel.runtime.pool import finishing, job_run
from compact_parallel.runtime.pool.errors import JobFailed
from compact_parallel.tests.pool.support import (
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


def interrupt(*arguments):
    raise Interrupted("enough")


@pytest.mark.parametrize("workers", [2, 3])
def test_a_job_returns_the_result_of_rank_0_and_every_ledger(workers, own_pool, pool):
    used = pool if workers == 2 else own_pool(workers)
    result = run(used, "add", value=2.0)
    total = float(workers * (workers + 1))
    assert json.loads(result.result) == total
    assert answers(result) == [total] * workers
    assert json.loads(run(used, "pid_of").result) == pids(used)[0]
    assert answers(run(used, "pid_of")) == pids(used)


def test_progress_arrives_in_order_in_the_thread_that_runs(started):
    seen = []
    result = run(started, "count", lambda *step: seen.append((*step, threading.get_ident())), steps=20, size=2)
    assert seen == [(step, 20, bytes([step]) * 2, threading.get_ident()) for step in range(20)]
    assert answers(result) == [20, 20]


def test_a_large_payload_arrives_whole(started):
    seen = []
    size = 48 << 20
    run(started, "count", lambda step, total, payload: seen.append((len(payload), payload[-1])), steps=3, size=size)
    assert seen == [(size, 0), (size, 1), (size, 2)]


def test_two_jobs_in_a_row_use_the_same_processes(started):
    starts = started.starts
    first = answers(run(started, "pid_of"))
    assert answers(run(started, "pid_of")) == first
    assert len(set(first)) == 2
    assert started.starts == starts


def test_two_threads_are_served_one_after_the_other(started):
    events = []
    waited = threading.Event()
    second = []

    def first_progress(step, total, payload):
        events.append(("first", step))
        if step == 0:
            second.append(
                Background(run, started, "count", lambda s, t, p: events.append(("second", s)), waited.set, steps=5)
            )
            assert waited.wait(10)  # the second asks whether it is interrupted, so it waits for the pool by now

    assert answers(run(started, "count", first_progress, steps=5)) == [5, 5]
    assert answers(second[0].result()) == [5, 5]
    assert events == [("first", step) for step in range(5)] + [("second", step) for step in range(5)]


def test_waiting_for_a_busy_pool_can_be_interrupted(started):
    outcome = []

    def while_busy(step, total, payload):
        if step == 0:
            with pytest.raises(Interrupted):
                Background(run, started, "add", check_interrupt=interrupt).result(5)
            outcome.append("interrupted")

    assert answers(run(started, "count", while_busy, steps=2)) == [2, 2]
    assert outcome == ["interrupted"]


def test_what_check_interrupt_raises_cancels_the_job(started):
    before = pids(started)
    running = threading.Event()

    def check():
        if running.is_set():
            raise Interrupted("by check_interrupt")

    with pytest.raises(Interrupted, match="by check_interrupt"):
        run(started, "until_cancelled", lambda *step: running.set(), check)
    assert started.status()["state"] == "idle"
    assert works(started)
    assert pids(started) == before


def test_what_on_progress_raises_cancels_the_job(started):
    before = pids(started)
    with pytest.raises(Interrupted, match="enough"):
        run(started, "until_cancelled", interrupt)
    assert works(started)
    assert pids(started) == before


def test_a_cancel_while_the_job_is_rebuilt_leaves_the_pool_usable(started):
    before = pids(started)
    asked = []

    def check():
        asked.append(started.status()["state"])
        if asked[-1] == "sampling":
            raise Interrupted("while it is rebuilt")

    with pytest.raises(Interrupted):
        run(started, "fail", check_interrupt=check, on=0, message="the job ran although it was cancelled")
    assert works(started)
    assert pids(started) == before


@pytest.mark.parametrize("job", ["deaf", "prepare"])
def test_a_cancel_that_nobody_heeds_ends_the_workers_in_the_end(job, single, monkeypatch):
    monkeypatch.setattr(job_run, "CANCEL_SECONDS", 0.3)
    monkeypatch.setattr(finishing, "FINISH_SECONDS", 0.7)
    before = pids(single)
    with pytest.raises(Interrupted):
        if job == "deaf":
            run(single, "deaf", interrupt)
        else:
            single.run(payload_of("add", {}, prepare_never_ends_on=0), nothing, _interrupt_when_sampling(single))
    assert single.state == "finishing"
    assert works(single)
    assert gone(before)


def _interrupt_when_sampling(pool):
    def check():
        if pool.state == "sampling":
            raise Interrupted("now")

    return check


def test_a_job_that_one_rank_cannot_rebuild_is_abandoned_by_all(started):
    before, starts = pids(started), started.starts
    payload = payload_of("add", {}, prepare_fails_on=1, message="the lora is not there")
    with pytest.raises(JobFailed, match="the lora is not there") as caught:
        started.run(payload, nothing, nothing)
    assert caught.value.kind == "FileNotFoundError"
    assert "worker 1 (cpu)" in str(caught.value)
    assert "in prepare" in str(caught.value)
    assert works(started)
    assert (pids(started), started.starts) == (before, starts)
    assert [worker["jobs"] for worker in started.status()["workers"]] == [0, 0]


def test_an_error_that_all_ranks_raise_leaves_the_pool_usable(started):
    before = pids(started)
    with pytest.raises(JobFailed) as caught:
        run(started, "refuse", message="Set ring_degree to 1.")
    assert str(caught.value) == "Set ring_degree to 1."
    assert caught.value.kind == "Refused"
    assert works(started)
    assert pids(started) == before


def test_what_a_worker_prints_arrives_in_the_log(started, caplog):
    caplog.set_level(logging.INFO)
    run(started, "say", text="hello")
    places = [(rank, stream) for rank in (0, 1) for stream in ("stdout", "stderr")]
    expected = {f"[parallel {rank}] hello of rank {rank} on {stream}" for rank, stream in places}
    wait_until(lambda: expected <= set(caplog.messages), "the lines are in the log")


def test_parking_frees_what_is_asked_for_and_on_that_device_only(own_pool):
    fresh = own_pool(2)
    fresh.devices = fresh._group._devices = ("cpu", "cpu:0")
    run(fresh, "count", steps=1)

    def held_and_state():
        return [(worker["device_bytes"], worker["state"]) for worker in fresh.status()["workers"]]

    assert fresh.park(device="cpu:0", nbytes=1000) is True
    assert held_and_state() == [(4096, "idle"), (3096, "idle")]
    assert fresh.park(device="cpu:0") is True
    assert held_and_state() == [(4096, "idle"), (0, "parked")]
    assert fresh.park(nbytes=4000) is True
    assert held_and_state() == [(96, "idle"), (0, "parked")]
    assert fresh.park() is True
    assert held_and_state() == [(0, "parked"), (0, "parked")]
    assert works(fresh)


def test_workers_on_one_device_free_in_proportion_to_what_they_hold(started):
    run(started, "count", steps=1)
    assert started.park(device="cpu", nbytes=3001) is True
    assert [worker["device_bytes"] for worker in started.status()["workers"]] == [4096 - 1501] * 2
    assert works(started)


def test_a_flood_of_output_does_not_block_a_job(started):
    result = Background(run, started, "say", text="flood" * 20, times=5000)
    assert answers(result.result()) == [None, None]
    assert answers(Background(run, started, "say", text="x" * (16 << 20)).result()) == [None, None]
    assert works(started)


def test_park_gives_the_memory_back_when_idle_only(own_pool, started):
    assert own_pool(2).park() is False
    while_busy = []

    def ask(step, total, payload):
        while_busy.extend([started.park(), Background(started.park).result(5)])

    run(started, "count", ask, steps=1)
    assert while_busy == [False, False]
    assert [worker["device_bytes"] for worker in started.status()["workers"]] == [4096, 4096]
    assert started.park() is True
    status = started.status()
    assert [(worker["device_bytes"], worker["state"]) for worker in status["workers"]] == [(0, "parked")] * 2
    assert works(started)
    assert [worker["state"] for worker in started.status()["workers"]] == ["idle", "idle"]


def test_room_is_made_before_workers_start_and_when_those_of_no_use_have_ended(own_pool):
    fresh, alive = own_pool(1), []

    def make_room():
        alive.append(pids(fresh))

    with fresh.reserve(nothing, make_room):
        assert works(fresh)  # which reserves it again
    first = pids(fresh)
    with fresh.reserve(nothing, make_room):
        assert pids(fresh) == first
    worker = psutil.Process(first[0])
    worker.kill()
    worker.wait(30)
    with fresh.reserve(nothing, make_room):
        assert works(fresh) and pids(fresh) != first
    assert alive == [[None], first, [None]]


def test_where_no_room_can_be_made_no_worker_starts(own_pool):
    fresh = own_pool(1)

    def make_room():
        raise Interrupted

    with pytest.raises(Interrupted), fresh.reserve(nothing, make_room):
        raise AssertionError("not reached")
    assert pids(fresh) == [None] and fresh.status()["state"] == "failed"
    assert works(fresh)


def test_status(own_pool):
    fresh = own_pool(1, name="mine")
    stopped = {"name": "mine", "state": "stopped", "backend": "gloo", "error": "", "starts": 0, "link": None}
    places = [{"rank": 0, "device": "cpu", "pid": None, "state": "stopped", "silent_seconds": 0}]
    assert fresh.status() == {**stopped, "workers": places}
    during = []
    run(fresh, "count", lambda *step: during.append(fresh.status()), steps=1)
    after = fresh.status()
    assert (after["state"], after["starts"], after["error"]) == ("idle", 1, "")
    assert [worker["state"] for worker in after["workers"]] == ["idle"]
    assert during[0]["state"] == "sampling"
    assert [worker["state"] for worker in during[0]["workers"]] == ["sampling"]
    assert [worker["pid"] for worker in during[0]["workers"]] == answers(run(fresh, "pid_of"))
    fresh.stop()
    assert fresh.status() == {**stopped, "starts": 1, "workers": places}


def test_two_pools_side_by_side(started):
    other = new_pool(2, name="other")
    try:
        inside = []
        run(started, "count", lambda *step: inside.append(works(other)), steps=2)
        assert inside == [True, True]
        assert not set(pids(started)) & set(pids(other))
        ports = [{port for _, port in answer["listening"]} for answer in answers(run(started, "inspect"))]
        others = [{port for _, port in answer["listening"]} for answer in answers(run(other, "inspect"))]
        assert not set.union(*ports) & set.union(*others)
    finally:
        other.stop()
    assert works(started)
