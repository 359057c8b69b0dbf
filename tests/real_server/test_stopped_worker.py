"""A stopped worker in a real ComfyUI server: it is shown, a cancel frees the queue, and the server still ends."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import struct
import time

import live_server
import psutil
import pytest
from compact_parallel.workflows import client as client_module
from compact_parallel.workflows.client import Interrupted, Progress

pytestmark = pytest.mark.server
SEEDS = itertools.count(9000)
ANSWERED_S = 5.0
TEXT_EVENT = 3


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def talk(tmp_path_factory, temporary):
    """A server of its own, whose temporary files lie in `temporary`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(temporary))
        with live_server.running(tmp_path_factory.mktemp("server")) as talk:
            yield talk


def right(talk, make, **changes):
    """Whether the next run gives what stock ComfyUI does, and another seed something else."""
    seed = next(SEEDS)
    exact = talk.latent(make("tiny_exact", KSampler__seed=seed, **changes))
    stock, other = (talk.latent(make("tiny_stock", KSampler__seed=one)) for one in (seed, next(SEEDS)))
    return (exact - stock).abs().max() < 1e-5 * stock.abs().max() < 0.1 * (other - stock).abs().max()


def line_of(pool):
    return pool["run"]["line"]


def test_it_is_shown_and_a_cancel_frees_the_queue(talk, make, monkeypatch):
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    victim = talk.pools()[0]["workers"][1]["pid"]
    texts, moments = [], []
    preview = client_module._preview

    def listen(message):
        kind, length = struct.unpack_from(">II", message)
        if kind == TEXT_EVENT:
            texts.append(message[8 + length :].decode())
            if "has not answered" in texts[-1]:
                look_and_cancel()
        return preview(message)

    def look_and_cancel():
        if moments:
            return
        pool = talk.pools()[0]
        seconds = [worker["silent_seconds"] for worker in pool["workers"]]
        assert seconds[0] == 0 < seconds[1]
        assert line_of(pool).startswith("Step ") and "worker 1 has not answered for" in line_of(pool)
        moments.append(time.monotonic())
        live_server.post(talk.server, "/interrupt")

    monkeypatch.setattr(client_module, "_preview", listen)

    def stop_at_step_2(client, prompt, event):
        if isinstance(event, Progress) and event.value == 2:
            os.kill(victim, signal.SIGSTOP)

    with pytest.raises(Interrupted):
        talk.run(make("tiny_exact", KSampler__seed=next(SEEDS), KSampler__steps=400), stop_at_step_2)
    assert time.monotonic() - moments[0] < ANSWERED_S
    queue = talk.server.get("/queue")
    assert queue["queue_running"] == queue["queue_pending"] == []
    pool = talk.pools()[0]
    assert (pool["state"], [worker["state"] for worker in pool["workers"]]) == ("failed", ["stopped", "dead"])
    assert pool["error"].startswith(f"Worker 1 (cpu), process {victim}, has not answered for")
    assert line_of(pool).startswith("Cancelled after step")
    assert right(talk, make)


def test_a_removed_folder_costs_a_warning(talk, make, temporary):
    (folder,) = temporary.glob("compact-parallel-*")
    shutil.rmtree(folder)
    assert right(talk, make)
    newest, *_ = (report for report in talk.server.get("/parallel/runs") if report["workers"] == 2)
    (warning,) = newest["warnings"]
    assert "was removed or changed from outside. The pool was started anew." in warning


def test_the_server_ends_although_workers_are_stopped(talk, make, temporary):
    workers = [psutil.Process(worker["pid"]) for worker in talk.pools()[0]["workers"]]
    for worker in workers:
        worker.suspend()
    server = psutil.Process(talk.server.pid)
    server.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs([server, *workers], timeout=15)
    assert not alive
    assert not list(temporary.glob("compact-parallel-*"))
