"""Real pools and servers whose ComfyUI lacks something: the sentence and the fallback, and all else works."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import live_server
import pytest
from compact_parallel.runtime.host import installed
from compact_parallel.workflows.client import NodeError
from compact_parallel.workflows.comfy_server import ComfyServer, ServerError
from sampling import TOLERANCE, pool

HERE = Path(__file__).resolve().parent
COMFYUI = Path(os.environ["COMFYUI_PATH"])


def script(name: str):
    """A Python file of this folder."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lacking, runs = script("lacking"), script("runs")


def in_workers(monkeypatch, folder: Path) -> dict[str, dict]:
    """What becomes of runs where only the workers have the ComfyUI in `folder`: it was updated since this one began."""
    pool(2).stop()
    elsewhere = [str(folder) if Path(entry) == COMFYUI else entry for entry in sys.path]
    monkeypatch.setattr(sys, "path", elsewhere)
    return runs.outcomes()


def everywhere(folder: Path) -> dict[str, dict]:
    """The same where this process has it, too."""
    command = [sys.executable, str(HERE / "runs.py")]
    environ = os.environ | {"COMFYUI_PATH": str(folder)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def exact(outcome: dict, *words: str) -> bool:
    """Whether a run on the pool gave the stock result and warned of all these, and only of these."""
    warned = [warning for warning in outcome.get("warnings", []) if "ComfyUI-CompactParallel has no" in warning]
    told = len(warned) == len(words) and all(any(word in warning for warning in warned) for word in words)
    return outcome.get("error", 1.0) < TOLERANCE and outcome["workers"] == 2 and not outcome["fallbacks"] and told


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory):
    """The runs where nothing is lacking."""
    return runs.outcomes()


def test_where_nothing_is_lacking_all_runs_are_exact(as_it_is):
    assert {name: outcome for name, outcome in as_it_is.items() if not exact(outcome)} == {}


NO_CFG = "comfy.samplers:get_area_and_mult of {} does not take timestep_in, without which ComfyUI-CompactParallel has"
NO_STEP = "comfy.k_diffusion.sampling:BrownianTreeNoiseSampler of {} is not there, without which"
NO_CONTROL = "comfy.controlnet:ControlNet.get_control of {} also takes more, without which"
NO_MODEL = "of {} does not take c_crossattn, without which"
NOTHING = "comfy.sampler_helpers:get_additional_models of {} is not there, without which"


def sentence(words: str) -> str:
    return words.format(installed())


@pytest.mark.parametrize("where", ("in the workers", "everywhere"))
def test_cfg_step_reuse_and_controls_are_lost_and_the_others_are_not(where, tmp_path, monkeypatch, as_it_is):
    changes = "a parameter of get_area_and_mult", "BrownianTreeNoiseSampler", "get_control as it was"
    folder = lacking.make(tmp_path / "ComfyUI", *changes)
    found = in_workers(monkeypatch, folder) if where == "in the workers" else everywhere(folder)
    told = [sentence(words) for words in (NO_CFG, NO_STEP, NO_CONTROL)]
    for name in ("data", "tokens", "tokens with control", "auto, one condition"):
        assert exact(found[name], *told), (name, found[name])
    # Each worker has run the ControlNet whole: its tokens did not travel.
    assert found["tokens"]["bytes_sent"] == as_it_is["tokens"]["bytes_sent"]
    assert found["tokens with control"]["bytes_sent"] < as_it_is["tokens with control"]["bytes_sent"]
    assert found["cfg"]["refused"].startswith(f"cfg_degree is 2, but {told[0]} no CFG parallelism")
    assert found["step"]["refused"].startswith(f"step_degree is 2, but {told[1]}")
    assert found["cfg or one device"]["error"] < TOLERANCE
    (fallback,) = found["cfg or one device"]["fallbacks"]
    assert told[0] in fallback
    if where == "everywhere":
        assert exact(found["auto"], *told) and found["auto"]["strategy"]["ring_degree"] == 2
    else:
        assert told[0] in found["auto"]["refused"]


@pytest.mark.parametrize("where", ("in the workers", "everywhere"))
def test_what_splits_a_call_of_the_model_is_lost_and_the_others_are_not(where, tmp_path, monkeypatch, as_it_is):
    folder = lacking.make(tmp_path / "ComfyUI", "c_crossattn")
    found = in_workers(monkeypatch, folder) if where == "in the workers" else everywhere(folder)
    told = sentence(NO_MODEL)
    for name in ("cfg", "cfg or one device", "step", "auto"):
        assert exact(found[name], "apply_model", "_apply_model"), (name, found[name])
    assert f"data_degree is 2, but comfy.model_base:BaseModel.apply_model {told}" in found["data"]["refused"]
    assert f"ring_degree is 2, but comfy.model_base:BaseModel.apply_model {told}" in found["tokens"]["refused"]
    assert told in found["auto, one condition"]["refused"]


@pytest.mark.parametrize("where", ("in the workers", "everywhere"))
def test_where_everything_is_lost_one_device_samples(where, tmp_path, monkeypatch):
    folder = lacking.make(tmp_path / "ComfyUI", "get_additional_models")
    if where == "in the workers":
        found = in_workers(monkeypatch, folder)
        fallback = found.pop("cfg or one device")
        assert fallback["error"] < TOLERANCE and sentence(NOTHING) in fallback["fallbacks"][0]
        refused = {name: outcome.get("refused", "") for name, outcome in found.items()}
        assert {name for name, told in refused.items() if sentence(NOTHING) not in told} == set()
        assert not any("Traceback" in told for told in refused.values())
        return
    folder = lacking.make(tmp_path / "panel" / "ComfyUI", "get_additional_models", "send_progress_text")
    (tmp_path / "server").mkdir()
    with ComfyServer(sys.executable, folder, live_server.ROOT, tmp_path / "server") as server:
        talk = live_server.Talk(server)
        refused = live_server.workflow("tiny_exact")
        body = json.dumps({"prompt": refused}).encode()
        request = urllib.request.Request(server.url + "/prompt", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        assert sentence(NOTHING) in caught.value.read().decode()
        stock = talk.latent(live_server.workflow("tiny_stock", KSampler__seed=3))
        allowed = live_server.workflow(
            "tiny_exact", KSampler__seed=3, Parallel_Model__on_unsupported="run on one device"
        )
        assert "Traceback" not in server.log.read_text()
        with pytest.raises(NodeError, match="there is no report. " + re.escape(sentence(NOTHING))):
            talk.run(allowed)
        report, sampler = (live_server.node(allowed, title) for title in ("Parallel Report", "KSampler"))
        for each in allowed.values():  # a workflow without it
            each["inputs"] |= {name: [sampler, 0] for name, value in each["inputs"].items() if value == [report, 0]}
        for title in ("Parallel Report", "Save Plot", "Summary", "Report"):
            del allowed[live_server.node(allowed, title)]
        assert (talk.latent(allowed) - stock).abs().max() == 0
        log = server.log.read_text()
        assert log.count(sentence(NOTHING)) >= 2  # when the pack was loaded, and when the node ran
        assert "send_progress_text of" in log and "has no panel in the browser" in log


def test_a_pack_that_cannot_load_says_why_and_leaves_comfyui_alone(tmp_path):
    folder = lacking.make(tmp_path / "ComfyUI", "get_executing_context")
    (tmp_path / "server").mkdir()
    server = ComfyServer(sys.executable, folder, live_server.ROOT, tmp_path / "server")
    with pytest.raises(ServerError, match="could not load this pack"), server:  # it answered
        raise AssertionError("the pack was loaded")
    assert f"get_executing_context of {installed()} is not there, without which" in server.log.read_text()
