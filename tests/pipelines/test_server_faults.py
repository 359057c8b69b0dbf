"""Pipelines in a real ComfyUI server that are cancelled, lose a worker, run out of memory or fail inside."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import time

import live_server
import psutil
import pytest
from compact_parallel.workflows.client import Interrupted, NodeError, Progress
from pipeline_prompts import POOL, SEEDS, WAYS, prompt
from tiny_pipelines import saved

pytestmark = pytest.mark.server
ALLOWED = 400 * 2**20
LONG = 1000
STEPS = 8
"""Step Reuse needs as many."""
TURNS = (("flux", "tokens"), ("sd3", "Step Reuse"), ("pixart", "xDiT"), ("wan", "Step Reuse"))


@pytest.fixture(scope="module")
def folder(shared_tiny_pipelines):
    for name, _ in TURNS:
        saved(name, shared_tiny_pipelines)
    return shared_tiny_pipelines


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def pool(talk):
    return next(pool for pool in talk.pools() if pool["name"] == POOL)


def works(talk, folder, way, starts):
    """Whether the next run comes to its end, on workers that were started so many times."""
    talk.run(prompt(folder, "flux", way=way, steps=STEPS))
    return pool(talk)["state"] == "idle" and pool(talk)["starts"] == starts


def at_step(step, act):
    """A listener that acts once, at the end of a step of the pipeline."""
    done = []

    def look(client, number, event):
        if isinstance(event, Progress) and event.value >= step and not done:
            done.append(time.monotonic())
            return act()
        return None

    return look


@pytest.mark.alone
def test_a_cancel_ends_the_run_within_a_step_and_the_workers_stay(talk, folder, way):
    talk.run(prompt(folder, "flux", way=way, steps=STEPS))
    starts, moments = pool(talk)["starts"], []
    cancel = at_step(3, lambda: (moments.append(time.monotonic()), live_server.post(talk.server, "/interrupt"))[0])
    with pytest.raises(Interrupted):
        talk.run(prompt(folder, "flux", way=way, steps=LONG), cancel)
    assert time.monotonic() - moments[0] < 5
    assert pool(talk)["run"]["line"].startswith("Cancelled after step")
    assert works(talk, folder, way, starts)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_images_per_prompt": 10**12}, "can't allocate memory: you tried to allocate"),
        ({"prompt_2": 5}, "`prompt_2` has to be of type `str` or `list` but is <class 'int'>"),
    ],
    ids=["out of memory", "a wrong argument"],
)
def test_what_fails_inside_is_told_and_the_workers_stay(talk, folder, way, arguments, words):
    talk.run(prompt(folder, "flux", way=way, steps=STEPS))
    starts = pool(talk)["starts"]
    with pytest.raises(NodeError) as caught:
        talk.run(prompt(folder, "flux", way=way, steps=STEPS, arguments=arguments))
    assert caught.value.node == "sample" and words in str(caught.value)
    assert works(talk, folder, way, starts)


def test_one_worker_alone_is_out_of_memory(talk, folder):
    way, many = WAYS["tokens"], {"num_images_per_prompt": 5000}
    talk.run(prompt(folder, "flux", way=way))
    starts, victim = pool(talk)["starts"], pool(talk)["workers"][1]["pid"]
    allowed = psutil.Process(victim).memory_info().vms + ALLOWED
    resource.prlimit(victim, resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))
    with pytest.raises(NodeError, match="can't allocate memory") as caught:
        talk.run(prompt(folder, "flux", way=way, steps=1, arguments=many))
    assert caught.value.node == "sample" and "raised on worker 1" in str(caught.value)
    assert works(talk, folder, way, starts + 1)  # worker 0, which waits for the other one, cannot be freed otherwise


def test_many_runs_in_turn_leave_the_memory_as_it_was(talk, folder):
    """Also a model of ComfyUI's, on the same workers, before and after."""
    model = {"Parallel_Worker_Pool__name": POOL, "KSampler__steps": 2}
    talk.run(live_server.workflow("tiny_exact", KSampler__seed=next(SEEDS), **model))
    starts, held = pool(talk)["starts"], []
    for number, (name, way) in zip(range(20), itertools.cycle(TURNS)):
        talk.run(prompt(folder, name, way=WAYS[way], steps=STEPS))
        if number in (*range(4, 8), *range(16, 20)):
            held.append([psutil.Process(one["pid"]).memory_full_info().uss for one in pool(talk)["workers"]])
    grown = [min(each[4:]) - max(each[:4]) for each in zip(*held)]  # the allocator gives some back now and then
    assert max(grown) < 4 * 2**20, grown
    talk.run(live_server.workflow("tiny_exact", KSampler__seed=next(SEEDS), **model))
    assert talk.server.get("/parallel/runs/latest")["model"] == "Flux"
    assert works(talk, folder, WAYS["tokens"], starts)


def test_a_run_goes_on_after_a_worker_was_killed_and_the_next_run_works(talk, folder, way):
    talk.run(prompt(folder, "flux", way=way, steps=STEPS))
    starts, victim = pool(talk)["starts"], pool(talk)["workers"][1]["pid"]
    talk.run(prompt(folder, "flux", way=way, steps=60), at_step(3, lambda: os.kill(victim, signal.SIGKILL)))
    report = talk.server.get("/parallel/runs/latest")
    assert report["restarts"] == 1 and report["steps"] == 60
    assert f"Worker 1 (cpu), process {victim}, ended with signal 9" in talk.server.log.read_text()
    assert works(talk, folder, way, starts + 1)
