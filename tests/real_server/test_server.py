"""The pack in a real ComfyUI server, seen from its API."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request

import psutil
import pytest
from compact_parallel.workflows.client import Cached, Interrupted, NodeError, Preview, Progress

pytestmark = pytest.mark.server
SEEDS = itertools.count(1000)


def relative_error(x, expected):
    return float((x - expected).abs().max() / expected.abs().max())


def loads_of_the_parent(talk):
    """Lines of the server's log that say it loaded the model itself, not a worker (a progress bar may come before)."""
    return re.findall(r"(?<!\] )Requested to load Flux", talk.server.log.read_text())


def test_the_parent_loads_no_model_and_the_result_is_stocks(talk, make):
    seed = next(SEEDS)
    before = loads_of_the_parent(talk)
    exact = talk.latent(make("tiny_exact", KSampler__seed=seed))
    assert loads_of_the_parent(talk) == before
    stock = talk.latent(make("tiny_stock", KSampler__seed=seed))
    assert len(loads_of_the_parent(talk)) > len(before)  # the stock run does load it, and is seen to
    assert relative_error(exact, stock) < 1e-5
    compressed = talk.latent(make("tiny", KSampler__seed=seed))
    assert 1e-5 < relative_error(compressed, stock) < 0.5


def test_report_and_plot_come_out_of_the_report_node(talk, make, find):
    workflow = make("tiny", KSampler__seed=next(SEEDS))
    _, outputs = talk.run(workflow)
    report = json.loads(outputs[find(workflow, "Report")]["text"][0])
    assert report == talk.server.get("/parallel/runs/latest")
    assert report in talk.server.get("/parallel/runs")
    assert report["workers"] == 2
    assert report["devices"] == ["cpu", "cpu"]
    assert report["calls"] == report["rounds"] == 4
    assert report["compression"]["codec"] == "2bit"
    assert 1 < report["effective_ratio"] < 16
    assert 0 < report["max_relative_error"] < 1
    assert 0 < report["sampling_seconds"] <= report["seconds"]
    png = talk.fetch(outputs[find(workflow, "Save Plot")]["images"][0])
    assert png.startswith(b"\x89PNG") and len(png) > 10_000


def test_previews_and_progress_arrive_as_with_stock_sampling(talk, make, find):
    seen = {}
    for name in ("tiny_stock", "tiny_exact"):
        workflow = make(name, KSampler__seed=next(SEEDS))
        events, _ = talk.run(workflow)
        sampler = find(workflow, "KSampler")
        assert not any(sampler in event.nodes for event in events if isinstance(event, Cached))
        progress = [(e.value, e.maximum) for e in events if isinstance(e, Progress) and e.node == sampler]
        seen[name] = (progress, sum(isinstance(event, Preview) for event in events))
    assert seen["tiny_exact"] == seen["tiny_stock"]
    assert seen["tiny_exact"] == ([(1, 4), (2, 4), (3, 4), (4, 4)], 4)


@pytest.mark.alone
def test_cancel_stops_within_a_step_and_the_pool_stays(talk, make, find):
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    starts = talk.pools()[0]["starts"]
    workflow = make("tiny_exact", KSampler__seed=next(SEEDS), KSampler__steps=400)
    moments = []

    def cancel_at_step_3(client, prompt, event):
        if isinstance(event, Progress):
            moments.append(time.monotonic())
            if event.value == 3:
                return client.cancel(prompt)
        return None

    with pytest.raises(Interrupted):
        talk.run(workflow, cancel_at_step_3)
    ended = time.monotonic()
    steps = [late - early for early, late in itertools.pairwise(moments)]
    assert len(moments) <= 5
    assert ended - moments[2] < max(steps) + 0.5 + 0.5  # a step, the bound, and the client's own way there and back
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    assert talk.pools()[0]["starts"] == starts


def test_a_killed_worker_is_an_error_on_the_node_if_the_run_cannot_be_resumed(talk, make, find):
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    victim = talk.pools()[0]["workers"][1]["pid"]
    lcm = {"KSampler__steps": 400, "KSampler__sampler_name": "lcm"}
    workflow = make("tiny_exact", KSampler__seed=next(SEEDS), **lcm)
    killed = []

    def kill_at_step_2(client, prompt, event):
        if isinstance(event, Progress) and event.value == 2:
            os.kill(victim, signal.SIGKILL)
            killed.append(time.monotonic())

    with pytest.raises(NodeError, match=rf"Worker 1 \(cpu\), process {victim}, ended with signal 9") as caught:
        talk.run(workflow, kill_at_step_2)
    assert time.monotonic() - killed[0] < 5
    assert caught.value.node == find(workflow, "KSampler")
    assert talk.pools()[0]["state"] == "failed"
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    assert talk.pools()[0]["state"] == "idle"


def test_a_run_whose_worker_is_killed_goes_on(talk, make):
    victim = talk.pools()[0]["workers"][0]["pid"]

    def kill_at_step_2(client, prompt, event):
        if isinstance(event, Progress) and event.value == 2 and not killed:
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    killed = []
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS), KSampler__steps=40), kill_at_step_2)
    report = talk.server.get("/parallel/runs/latest")
    assert killed and report["restarts"] == 1 and report["resumed_calls"] >= 2
    assert report["calls"] + report["resumed_calls"] == 40


@pytest.mark.parametrize(
    ("title", "changes", "sentence"),
    [
        (
            "KSampler",
            {"Parallel_Strategy__mode.ring_degree": 1, "Parallel_Strategy__mode.cfg_degree": 2, "KSampler__cfg": 1.0},
            "cfg_degree is 2 but the guider evaluates 1 condition",
        ),
        (
            "KSampler",
            {
                "Parallel_Strategy__mode.ring_degree": 1,
                "Parallel_Strategy__mode.ulysses_degree": 3,
                "Parallel_Worker_Pool__devices": "cpu*3",
                "Parallel_Worker_Pool__name": "three",
            },
            "ulysses_degree",
        ),
    ],
)
def test_wrong_choices_are_explained_on_the_node(talk, make, find, title, changes, sentence):
    workflow = make("tiny_exact", KSampler__seed=next(SEEDS), **changes)
    with pytest.raises(NodeError, match=sentence) as caught:
        talk.run(workflow)
    assert caught.value.node == find(workflow, title)


def test_a_saved_workflow_without_our_newer_inputs_takes_their_defaults(talk, make, find):
    workflow = make("tiny", KSampler__seed=next(SEEDS))
    for title, kept in (("Parallel Strategy", ("mode", "mode.ring_degree")), ("Residual Compression", ("mode",))):
        inputs = workflow[find(workflow, title)]["inputs"]
        for name in set(inputs) - set(kept):
            del inputs[name]
    talk.run(workflow)
    report = talk.server.get("/parallel/runs/latest")
    assert report["strategy"]["ring_degree"] == 2 and report["strategy"]["ring_exchange"] == "all_gather"
    assert report["compression"]["codec"] == "2bit"


def test_guiders_from_files_under_path_names_reach_the_workers(talk, make, find):
    """comfy_extras are registered under their file paths in a server: SamplerCustomAdvanced with DualCFGGuider."""
    results = {}
    seed = next(SEEDS)
    for name in ("tiny_stock", "tiny_exact"):
        workflow = make(name)
        sampler = find(workflow, "KSampler")
        inputs = workflow[sampler]["inputs"]
        extra = {
            "n": ("RandomNoise", {"noise_seed": seed}),
            "k": ("KSamplerSelect", {"sampler_name": "dpmpp_2m"}),
            "s": ("BasicScheduler", {"model": inputs["model"], "scheduler": "simple", "steps": 4, "denoise": 1.0}),
            "g": (
                "DualCFGGuider",
                {
                    "model": inputs["model"],
                    "cond1": inputs["positive"],
                    "cond2": inputs["positive"],
                    "negative": inputs["negative"],
                    "cfg_conds": 3.0,
                    "cfg_cond2_negative": 2.0,
                    "style": "nested",
                },
            ),
        }
        for key, (kind, given) in extra.items():
            workflow[key] = {"class_type": kind, "inputs": given, "_meta": {"title": key}}
        workflow[sampler] = {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["n", 0],
                "guider": ["g", 0],
                "sampler": ["k", 0],
                "sigmas": ["s", 0],
                "latent_image": inputs["latent_image"],
            },
            "_meta": {"title": "KSampler"},
        }
        results[name] = talk.latent(workflow)
    assert relative_error(results["tiny_exact"], results["tiny_stock"]) < 1e-5


def post(talk, path):
    request = urllib.request.Request(talk.server.url + path, data=b"", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_pools_are_started_and_stopped_by_routes(talk, make):
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    before = [worker["pid"] for worker in talk.pools()[0]["workers"]]
    status, pool = post(talk, "/parallel/pools/default/restart")
    assert status == 200 and pool["state"] == "idle"
    assert not {worker["pid"] for worker in pool["workers"]} & set(before)
    status, pool = post(talk, "/parallel/pools/default/stop")
    assert status == 200 and pool["state"] == "stopped"
    assert not any(psutil.pid_exists(pid) for pid in before)
    status, pool = post(talk, "/parallel/pools/default/start")
    assert status == 200 and pool["state"] == "idle"
    status, answer = post(talk, "/parallel/pools/nobody/start")
    assert status == 404 and "nobody" in answer["error"]


def test_free_parks_the_workers(talk, make):
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    request = urllib.request.Request(
        talk.server.url + "/free",
        data=json.dumps({"unload_models": True}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()
    deadline = time.monotonic() + 30
    while {worker["state"] for worker in talk.pools()[0]["workers"]} != {"parked"}:
        assert time.monotonic() < deadline, talk.pools()
    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
    assert {worker["state"] for worker in talk.pools()[0]["workers"]} == {"idle"}


NODES = (
    "CompactParallelModel",
    "CompactParallelPool",
    "CompactParallelStrategy",
    "CompactParallelCompression",
    "CompactParallelReport",
    "CompactParallelDemoPrompt",
)


def inputs_of(info):
    for kind in ("required", "optional"):
        for name, spec in info["input"].get(kind, {}).items():
            yield name, spec
            for option in spec[1].get("options", []) if len(spec) > 1 and isinstance(spec[1], dict) else []:
                if isinstance(option, dict):
                    for inner in ("required", "optional"):
                        yield from option["inputs"].get(inner, {}).items()


@pytest.mark.parametrize("name", NODES)
def test_every_node_and_input_explains_itself(talk, name):
    info = talk.server.get(f"/object_info/{name}")[name]
    assert info["description"]
    assert info["search_aliases"]
    for input_name, spec in inputs_of(info):
        assert spec[1].get("tooltip"), input_name
    needs = set(info["input"].get("required", {}))
    assert needs <= {"model", "latent", "shape", "colour", "background", "texture", "position"}


def test_workers_exit_when_the_server_is_killed(talk, make, tmp_path):
    from compact_parallel.workflows.comfy_server import ComfyServer

    other = ComfyServer(talk.server._command[0], *_places(talk), tmp_path)
    with other:
        Talk = type(talk)
        mine = Talk(other)
        mine.run(make("tiny_exact", KSampler__seed=next(SEEDS)))
        workers = [psutil.Process(worker["pid"]) for worker in mine.pools()[0]["workers"]]
        os.kill(other.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive


def _places(talk):
    from pathlib import Path

    return Path(talk.server._command[1]).parent, Path(__file__).resolve().parents[2]


def test_a_started_run_shows_in_the_status(talk, make):
    states = []

    def look(client, prompt, event):
        if isinstance(event, Progress):
            states.append(talk.pools()[0]["state"])

    talk.run(make("tiny_exact", KSampler__seed=next(SEEDS)), look)
    assert "sampling" in states
