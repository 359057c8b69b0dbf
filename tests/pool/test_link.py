"""The link between the workers is measured once when a pool starts, by all ranks together, and never hangs."""

import json
import logging
import threading
import time

import pytest
import torch
from compact_parallel.runtime.attention.axis import exchange
from compact_parallel.runtime.pool import probe
from compact_parallel.runtime.pool.errors import JobFailed, WorkerDied
from compact_parallel.tests.pool.support import Background, Interrupted, gone, pids, run, works
from distributed import launch


def told(pool):
    """What each worker says it has measured."""
    return [worker["measured"] for worker in pool.status()["workers"]]


@pytest.mark.parametrize("workers", [2, 3])
def test_every_start_measures_and_all_ranks_agree(workers, own_pool):
    pool = own_pool(workers, handler="handlers:Surveyor")
    assert pool.status()["link"] is None
    pool.start()
    first = pool.status()["link"]
    assert 1e6 < first["bytes_per_second"] < 1e12
    assert 0 < first["latency_s"] < 1
    assert json.loads(json.dumps(first)) == pool.link == first
    assert told(pool) == [first] * workers
    assert [worker["own"] for worker in pool.status()["workers"]] == list(range(workers))
    assert first["rank"] == workers - 1, "the largest of all ranks counts"
    assert works(pool)
    assert pool.status()["link"] == first, "a job does not lose it"
    pool.stop()
    assert pool.status()["link"] == first, "still the last that is known"
    pool.restart()
    assert told(pool) == [pool.link] * workers
    assert pool.link["bytes_per_second"] != first["bytes_per_second"], "it was measured anew"


def test_one_worker_has_no_link(own_pool):
    pool = own_pool(1, handler="handlers:Surveyor")
    pool.start()
    assert pool.status()["link"] is None
    assert told(pool) == [None]


def test_a_handler_need_not_measure(started):
    assert started.status()["link"] is None
    assert works(started)


@pytest.mark.parametrize(("how", "says"), [("Dies", "signal 9"), ("DiesSlowly", "exit code 3")])
def test_a_worker_that_dies_in_the_probe_is_named(how, says, own_pool):
    pool = own_pool(2, handler=f"handlers:{how}InProbe")
    with pytest.raises(WorkerDied, match=rf"Worker 1 \(cpu\), process \d+, ended with {says}") as caught:
        Background(pool.start).result()
    assert "rank 1 looks at the link" in str(caught.value)
    assert (pool.status()["state"], pool.status()["workers"][0]["pid"]) == ("failed", None)
    assert f"ended with {says}" in pool.status()["error"]


def test_an_error_in_the_probe_is_told_with_its_traceback(own_pool):
    pool = own_pool(2, handler="handlers:FailsInProbe")
    seen = set()
    with pytest.raises(JobFailed, match="the cable is cut") as caught:
        Background(pool.start, lambda: seen.update(pids(pool))).result()
    assert caught.value.kind == "ValueError"
    assert "worker 1 (cpu)" in str(caught.value)
    assert "in probe" in str(caught.value)
    assert gone(seen)
    assert pool.status()["state"] == "failed"


def test_a_probe_that_does_not_end_can_be_interrupted(own_pool, caplog):
    caplog.set_level(logging.INFO)
    pool = own_pool(2, handler="handlers:HangsInProbe")
    seen = set()

    def check():
        seen.update(pids(pool))
        if any("looks at the link" in message for message in caplog.messages):
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        Background(run, pool, "add", check_interrupt=check).result()
    assert gone(seen)


def slowed_measurement(rank, world, rates):
    """Each rank takes n / its rate seconds longer for n bytes (none: no longer)."""

    def slowed(axis, sends, receives, ledger):
        if rates[rank]:
            threading.Event().wait(sum(x.numel() for x in sends.values()) / rates[rank])
        exchange(axis, sends, receives, ledger)

    probe.exchange = slowed
    started = time.perf_counter()
    speed = probe.measure_link(torch.device("cpu"))
    return tuple(speed), time.perf_counter() - started


@pytest.mark.alone
@pytest.mark.parametrize("rates", [(2e5, None), (None, 1e7), (1e7, 1e7)])
def test_the_slowest_rank_counts(rates, tmp_path):
    (speed, seconds), (other, _) = launch(slowed_measurement, 2, tmp_path, rates)
    assert speed == other
    slowest = min(rate for rate in rates if rate)
    assert 0.6 * slowest < speed[0] < 1.1 * slowest
    assert seconds < 2, "the messages grew too large for this link"


@pytest.mark.alone
def test_a_link_that_nothing_slows_is_faster(tmp_path):
    (speed, seconds), (other, _) = launch(slowed_measurement, 2, tmp_path, (None, None))
    assert speed == other
    assert speed[0] > 3e7
    assert seconds < 2


def largest_of(rank, world):
    return probe.slowest({"up": float(rank), "down": -float(rank), "same": 7.0})


def test_slowest_is_the_largest_by_name(tmp_path):
    assert launch(largest_of, 3, tmp_path) == [{"up": 2.0, "down": 0.0, "same": 7.0}] * 3
