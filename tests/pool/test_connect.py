"""Workers that cannot connect: nccl is tried once and then gloo, which is said; without gloo, too, it is an error."""

from __future__ import annotations

import pytest
from compact_parallel.runtime.config import PoolConfig
from compact_parallel.runtime.pool import worker_group
from compact_parallel.runtime.pool.errors import NoConnection, WorkerDied
from compact_parallel.tests.pool.support import Background, gone, pids, works

HANG_S = 5.0
"""What a first message may take here."""
FAILURES = {
    "NcclFails": "unhandled system error: no space in shared memory",
    "NcclHangs": f"nothing arrived within {HANG_S:g} s",
    "NcclKills": "ended with signal 7",
    "NcclLoses": "other bytes arrived than were sent",
}


@pytest.fixture
def with_nccl(own_pool, monkeypatch):
    """Makes a pool that takes its CPU workers for cards with NCCL."""
    resolve = PoolConfig.resolve_backend

    def as_for_cards(config, devices, has_nccl):
        return resolve(config, tuple(f"cuda:{i}" for i in range(len(devices))), has_nccl=True)

    monkeypatch.setattr(PoolConfig, "resolve_backend", as_for_cards)
    return lambda how, **config: own_pool(2, handler=f"connections:{how}", **config)


@pytest.mark.parametrize("how", FAILURES)
def test_nccl_that_does_not_start_is_replaced_by_gloo_and_this_is_said(how, with_nccl, monkeypatch):
    monkeypatch.setattr(worker_group, "CONNECT_SECONDS", HANG_S)
    pool = with_nccl(how)
    assert pool.status()["backend"] == "nccl"
    Background(pool.start).result(120)
    (notice,) = pool.notices
    assert "The workers use gloo, which is slower between cards, because they did not start with nccl (" in notice
    assert FAILURES[how] in notice and "\n" not in notice
    assert "set backend" not in notice and "restarts on the next run" not in notice
    assert pool.status()["backend"] == "gloo"
    assert pool.starts == 1
    before = pids(pool)
    assert works(pool)
    assert pids(pool) == before
    assert pool.notices == (notice,), "every run's report says so"


def test_nccl_that_works_stays(with_nccl):
    pool = with_nccl("NcclWorks")
    pool.start()
    assert pool.status()["backend"] == "nccl"
    assert pool.notices == ()
    assert works(pool)


def test_a_stop_by_hand_gives_nccl_another_chance(with_nccl):
    pool = with_nccl("NcclFails")
    pool.start()
    assert pool.status()["backend"] == "gloo"
    pool.stop()
    assert (pool.status()["backend"], pool.notices) == ("nccl", ())
    assert works(pool)
    assert pool.status()["backend"] == "gloo" and len(pool.notices) == 1


@pytest.mark.parametrize(("how", "error"), [("NcclFails", NoConnection), ("NcclKills", WorkerDied)])
def test_nccl_that_was_asked_for_is_not_replaced(how, error, with_nccl):
    pool = with_nccl(how, backend="nccl")
    seen = set()
    with pytest.raises(error, match=FAILURES[how]) as caught:
        Background(pool.start, lambda: seen.update(pids(pool))).result(120)
    assert error is WorkerDied or "set backend of Parallel Worker Pool to gloo, or on_unsup" in str(caught.value)
    assert gone(seen)
    assert (pool.state, pool.status()["backend"], pool.notices) == ("failed", "nccl", ())


def test_gloo_that_does_not_start_is_an_error_that_names_the_way_out(own_pool, monkeypatch):
    """gloo finds no network interface of this name."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "missing")
    pool = own_pool(2)
    with pytest.raises(NoConnection) as caught:
        Background(pool.start).result(120)
    sentence = str(caught.value)
    assert "could not exchange data with the other workers by gloo" in sentence and "missing" in sentence
    assert sentence.endswith('set on_unsupported of Parallel Model to "run on one device".')
    assert pool.state == "failed"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    assert works(pool)
