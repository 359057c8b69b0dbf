"""workflows/client.py as a command: what it prints, what it saves, and the exit code of every way it can end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import aiohttp
import live_server
import numpy as np
import pytest
from compact_parallel.workflows import client as client_module
from compact_parallel.workflows.client import Client, Executing, Interrupted
from compact_parallel.workflows.client_command import WrongUsage, inside, load
from compact_parallel.workflows.client_overrides import WrongOverride, override
from live_server import ROOT, shipped, workflow
from PIL import Image

COMMAND = [sys.executable, str(ROOT / "workflows/client.py")]
TINY = ROOT / "workflows/api/tiny.json"
SMALL = ["--set", "Empty Latent.width=256", "--set", "5.height=240"]
ENDLESS = ["--set", "KSampler.steps=2000"]

pytestmark = pytest.mark.server


@pytest.fixture
def client(talk, tmp_path):
    """Runs the command against the server and returns what it did."""

    def run(*arguments, server=None):
        command = [*COMMAND, "--server", server or talk.server.url, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)

    return run


def started(url, *arguments, folder):
    """The command, running; returns when its bar has counted a step."""
    command = [*COMMAND, "--server", url, str(TINY), *SMALL, *ENDLESS, *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = ""
    while not re.search(r"KSampler:.* [1-9]\d*/2000", seen):
        letter = process.stderr.read(1)
        assert letter, f"it ended early: {seen}"
        seen += letter
    return process


def test_a_headless_run_shows_progress_saves_everything_and_tells_what_it_measured(talk, client, tmp_path):
    done = client(TINY, *SMALL, "--set", "KSampler.steps=4", "--set", "KSampler.seed=71", "--out", "made")
    assert done.returncode == 0, done.stderr
    assert re.search(r"KSampler: 100%.* 4/4", done.stderr)
    report = talk.server.get("/parallel/runs/latest")
    assert report["calls"] == 4 and report["compression"]["codec"] == "2bit"
    assert "Flux on 2 workers (cpu x 2): 4 model calls in " in done.stdout
    saved = re.findall(r"^Saved (.*)$", done.stdout, re.M)
    assert {path.name.split("_0")[0] for path in (tmp_path / "made").iterdir()} >= {"tiny", "tiny_plot", "latents"}
    assert all((tmp_path / path).stat().st_size > 0 for path in saved)
    picture = np.asarray(Image.open(next(tmp_path.glob("made/tiny_0*.png"))))
    assert picture.shape[:2] == (240, 256) and picture.std() > 5
    assert json.loads((tmp_path / "made/17 Report.txt").read_text()) == report
    assert (tmp_path / "made/16 Summary.txt").read_text().splitlines()[0] in done.stdout


def test_a_run_without_workers_tells_nothing_of_an_earlier_one(talk, client):
    assert client(TINY, *SMALL, "--set", "KSampler.steps=4", "--set", "KSampler.seed=72", "--quiet").returncode == 0
    done = client(ROOT / "workflows/api/tiny_stock.json", *SMALL, "--set", "KSampler.steps=2", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_server_that_takes_connections_and_says_nothing_is_given_up(monkeypatch):
    """As one that is stopped: its port still accepts."""
    monkeypatch.setattr(client_module, "_ANSWER_SECONDS", 0.5)

    async def talk_to(port):
        async with Client(f"http://127.0.0.1:{port}"):
            raise AssertionError("somebody answered")

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(aiohttp.ServerTimeoutError):
        asyncio.run(asyncio.wait_for(talk_to(silent.getsockname()[1]), 20))


def test_files_are_uploaded(client, tmp_path):
    Image.new("RGB", (16, 8), (10, 20, 30)).save(tmp_path / "teal.png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "other.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "sub/copy"}},
    }
    (tmp_path / "copy.json").write_text(json.dumps(workflow))
    done = client("copy.json", "--upload", "teal.png", "--set", "LoadImage.image=teal.png", "--out", "made")
    assert done.returncode == 0, done.stderr
    (copy,) = (tmp_path / "made/sub").iterdir()
    assert Image.open(copy).size == (16, 8) and Image.open(copy).getpixel((0, 0)) == (10, 20, 30)
    assert client("copy.json", "--upload", "none.png").stderr == "--upload none.png: there is no such file.\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "Sampler.steps=4",
            r"there is no node 'Sampler'; this workflow has 1 \(Load Diffusion Model\), .*6 \(KSampler\)",
        ),
        ("KSampler.stps=4", r"KSampler \(node 6\) has no input 'stps'; it has model, seed, steps, cfg, "),
        ("12.mode.codek=1bit", r"it has predictor, .*mode\.ratio, mode\.max_relative_error, mode\.codec, mode\.rank"),
        ("KSampler.steps=many", "this input takes INT, for example 8"),
        ("KSampler.cfg=high", r"this input takes FLOAT, for example 3\.5"),
        ("Residual Compression.error_feedback=1", "this input takes BOOLEAN, for example true"),
        ("KSampler.model=flux", r"this input takes MODEL, for example \[\"4\", 0\]"),
        ("KSampler=4", "is not node.input=value"),
        ("KSampler.steps", "is not node.input=value"),
    ],
)
def test_a_wrong_set_names_what_there_is(talk, client, text, sentence):
    done = client(TINY, "--set", text)
    assert done.returncode == 2 and re.search(sentence, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_every_kind_of_input_can_be_set(object_info):
    workflow = shipped("tiny")
    for text in (
        "KSampler.cfg=1",
        "11.overlap=False",
        "Empty Latent.width=320",
        "3.shape=star",
        "Parallel Worker Pool.name=007",
        "Residual Compression.mode=ratio",
        "Residual Compression.mode.ratio=8.5",
        'KSampler.model=["1", 0]',
        "Save Image.filename_prefix=a=b.c",
    ):
        override(workflow, text, object_info)
    values = {number: node["inputs"] for number, node in workflow.items()}
    assert values["6"]["cfg"] == 1 and values["6"]["model"] == ["1", 0]
    assert values["11"]["overlap"] is False and values["5"]["width"] == 320 and values["3"]["shape"] == "star"
    assert values["10"]["name"] == "007" and values["8"]["filename_prefix"] == "a=b.c"
    assert values["12"]["mode"] == "ratio" and values["12"]["mode.ratio"] == 8.5


def test_titles_may_have_dots_and_must_not_be_shared(object_info):
    workflow = shipped("tiny")
    workflow["1"]["_meta"]["title"] = "FLUX.1 dev"
    override(workflow, "FLUX.1 dev.weight_dtype=fp8_e5m2", object_info)
    assert workflow["1"]["inputs"]["weight_dtype"] == "fp8_e5m2"
    workflow["4"]["_meta"]["title"] = workflow["3"]["_meta"]["title"]
    with pytest.raises(WrongOverride, match="nodes 3, 4 are all called 'Positive Prompt'; use one of these numbers"):
        override(workflow, "Positive Prompt.shape=star", object_info)


def test_a_file_that_is_no_api_workflow_is_explained(tmp_path):
    def told(content):
        (tmp_path / "file.json").write_text(content)
        with pytest.raises(WrongUsage) as caught:
            load(tmp_path / "file.json")
        return str(caught.value)

    assert "export its API form there" in told((ROOT / "workflows/tiny.json").read_text())
    assert "is not JSON" in told("{")
    assert "is no workflow in API form" in told('{"1": {"inputs": {}}}')
    assert "is no workflow in API form" in told("[]")
    with pytest.raises(WrongUsage, match="No such file"):
        load(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "C:a.png", "..\\a.png"])
def test_nothing_is_saved_outside_of_the_folder(tmp_path, name):
    assert inside(tmp_path, {"filename": "a.png", "subfolder": "sub"}) == tmp_path / "sub/a.png"
    with pytest.raises(Exception, match="outside of its folder"):
        inside(tmp_path, {"filename": name, "subfolder": "sub"})


def test_wrong_usage_is_2(client):
    for arguments in (["none.json"], [ROOT / "workflows/tiny.json"], [TINY, "--sett", "x"], []):
        assert client(*arguments).returncode == 2
    done = client(TINY, server="8188")
    assert (done.returncode, done.stderr) == (2, "--server 8188 is no address; write it like http://127.0.0.1:8188.\n")


def test_a_refused_workflow_is_3(client):
    done = client(TINY, "--set", "KSampler.sampler_name=oiler")
    assert done.returncode == 3
    assert "KSampler (node 6): Value not in list sampler_name: 'oiler'" in done.stderr
    done = client(TINY, *SMALL, "--set", "Parallel Worker Pool.devices=gpu")
    assert done.returncode == 3
    assert "'gpu' is not a device; write auto, cpu, cuda:0 or cpu*4" in done.stderr


def test_an_error_of_a_node_is_4(client):
    by_cfg = ["--set", "Parallel Strategy.mode.cfg_degree=2", "--set", "Parallel Strategy.mode.ring_degree=1"]
    done = client(TINY, *SMALL, *by_cfg, "--set", "KSampler.cfg=1")  # what a guider does shows when it runs
    assert done.returncode == 4
    assert "KSampler (node 6): cfg_degree is 2 but the guider evaluates 1 condition" in done.stderr


def test_an_interrupt_on_the_server_is_5(talk, tmp_path):
    process = started(talk.server.url, "--set", "KSampler.seed=81", folder=tmp_path)
    urllib.request.urlopen(
        urllib.request.Request(f"{talk.server.url}/interrupt", data=b"{}", method="POST"), timeout=30
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5 and errors.endswith("The workflow was cancelled.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_workflow_on_the_server_and_is_5(talk, tmp_path, number):
    process = started(talk.server.url, "--set", f"KSampler.seed={90 + number}", folder=tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5 and errors.endswith("Cancelled.\n") and "Traceback" not in errors
    prompt = shipped("tiny_stock")
    prompt["5"]["inputs"].update(width=256, height=240)
    prompt["6"]["inputs"].update(steps=1, seed=90 + number)
    talk.run(prompt)  # it only comes to its turn when the endless one has ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_the_bar_is_drawn_cancels_too(talk, tmp_path, number):
    """Python's own handler would raise there, past the code that tells the server."""
    (tmp_path / "client.py").write_text(
        "import os, runpy, sys\n"
        "from tqdm import tqdm\n"
        "update = tqdm.update\n"
        f"tqdm.update = lambda bar, by=1: (update(bar, by), os.kill(os.getpid(), {int(number)}))\n"
        f"sys.argv[0] = {COMMAND[1]!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, tmp_path / "client.py", "--server", talk.server.url, TINY, *SMALL, *ENDLESS]
    command += ["--set", f"KSampler.seed={110 + number}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5 and done.stderr.endswith("Cancelled.\n") and "Traceback" not in done.stderr
    assert talk.server.get("/queue")["queue_pending"] == []
    talk.run(workflow("tiny_stock", Empty_Latent__height=240, KSampler__steps=1, KSampler__seed=110 + number))


def test_a_workflow_that_is_deleted_while_it_waits_is_an_interrupt(talk, tmp_path):
    """It would wait for ever: the server says nothing about a prompt that it forgets."""
    process = started(talk.server.url, "--set", "KSampler.seed=101", folder=tmp_path)

    async def wait_and_be_deleted():
        async with Client(talk.server.url) as client:
            prompt_id = await client.queue(shipped("tiny_stock"))
            await client.cancel(prompt_id)
            async for event in client.events(prompt_id):
                assert not isinstance(event, Executing)

    with pytest.raises(Interrupted, match="removed from the queue"):
        asyncio.run(asyncio.wait_for(wait_and_be_deleted(), timeout=60))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 5


def test_no_server_is_6(client):
    done = client(TINY, server="http://127.0.0.1:9")
    assert done.returncode == 6
    assert done.stderr.startswith("There is no ComfyUI server to talk to at http://127.0.0.1:9: ")


def test_a_server_that_is_killed_midway_is_6(tmp_path):
    (tmp_path / "base").mkdir()
    with live_server.running(tmp_path / "base") as talk:
        process = started(talk.server.url, folder=tmp_path)
        os.kill(talk.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 6
    assert errors.endswith("The server closed the connection before the workflow ended.\n")
    assert "Traceback" not in errors
