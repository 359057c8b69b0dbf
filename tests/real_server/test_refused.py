"""What cannot work is refused by the server before anything runs, with the sentence on the node it is about."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from compact_parallel.workflows.client import NodeError

pytestmark = pytest.mark.server


def refusal(talk, workflow):
    """Node errors by node and the server's answer to a workflow that it must not take."""
    body = json.dumps({"prompt": workflow}).encode()
    request = urllib.request.Request(talk.server.url + "/prompt", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400
    return {number: told["errors"] for number, told in json.load(caught.value)["node_errors"].items()}


def begun(talk):
    """What shows that something has run: the starts of each pool, and the prompts of the history."""
    return {pool["name"]: pool["starts"] for pool in talk.pools()}, set(talk.server.get("/history"))


def pipeline(**inputs):
    """Parallel Pipeline and what runs it."""
    return {
        "1": {"class_type": "CompactParallelPipeline", "inputs": inputs},
        "2": {"class_type": "CompactParallelPipelineSample", "inputs": {"pipeline": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


@pytest.fixture(scope="module", autouse=True)
def before(talk):
    """The same before the first test of this file."""
    return begun(talk)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"folder": "Latte-9"}, "folder - folder is 'Latte-9', which is not in models/diffusers; "),
        ({"folder": "", "engine": "deepspeed"}, "engine is 'deepspeed'; choose one of diffusers, xdit."),
        ({"folder": "", "engine.patch": 2}, "Parallel Pipeline has no input engine.patch; it has folder, path"),
        ({"folder": "", "engine": "xdit", "engine.patches": -1}, "Value -1 smaller than min of 0"),
    ],
)
def test_a_pipeline_that_cannot_be_meant(talk, inputs, sentence):
    (error,) = refusal(talk, pipeline(**inputs))["1"]
    assert sentence in f"{error['message']} {error['details']}"


@pytest.mark.parametrize(
    ("title", "shown_at", "changes", "sentence"),
    [
        ("Parallel Worker Pool", "devices", {"devices": "gpu0"}, "'gpu0' is not a device; write auto, cpu, cuda:0 or"),
        ("Parallel Worker Pool", "devices", {"devices": "cuda:0,cuda:1"}, "cuda:0 does not exist (0 CUDA devices"),
        ("Parallel Worker Pool", "devices", {"devices": " "}, "devices is empty; write auto, or name devices"),
        ("Parallel Worker Pool", "devices", {"devices": "cpu*0"}, "'cpu*0' asks for no worker"),
        ("Parallel Worker Pool", "devices", {"backend": "nccl"}, "backend is nccl but devices are cpu,cpu; nccl needs"),
        (
            "Parallel Worker Pool",
            "devices",
            {"workers": 2},
            "Parallel Worker Pool has no input workers; it has devices",
        ),
        ("Parallel Worker Pool", "backend", {"backend": "mpi"}, "'mpi' not in ['auto', 'nccl', 'gloo']"),
        ("Parallel Worker Pool", "start_timeout_s", {"start_timeout_s": 0}, "Value 0.0 smaller than min of 1.0"),
        ("Parallel Strategy", "mode", {"mode": "manually"}, "mode is 'manually'; choose one of auto, manual."),
        ("Parallel Strategy", "mode", {"mode.cfg": 2}, "has no input mode.cfg with mode manual; it has weights, "),
        ("Parallel Strategy", "mode.ring_degree", {"mode.ring_degree": 0}, "Value 0 smaller than min of 1"),
        (
            "Residual Compression",
            "mode",
            {"mode": "qualty"},
            "mode is 'qualty'; choose one of auto, off, ratio, quality",
        ),
        ("Residual Compression", "mode.codec", {"mode.codec": "2-bit"}, "'2-bit' not in ['int8', 'fp8', '4bit', "),
        ("Residual Compression", "mode.codec", {"mode.codec": "half"}, "'half' not in ['int8', 'fp8', '4bit', "),
        ("Residual Compression", "mode", {"mode.bits": 2}, "has no input mode.bits with mode codec; it has predictor,"),
        ("Residual Compression", "mode", {"warmup": 2}, "Residual Compression has no input warmup with mode codec"),
        ("Residual Compression", "warmup_calls", {"warmup_calls": 0}, "Value 0 smaller than min of 1"),
    ],
)
def test_a_wrong_input_is_refused_on_its_node(talk, make, find, title, shown_at, changes, sentence):
    workflow = make("tiny", **{f"{title.replace(' ', '_')}__{name}": value for name, value in changes.items()})
    ((number, (error,)),) = refusal(talk, workflow).items()
    assert number == find(workflow, title)
    assert error["extra_info"]["input_name"] == shown_at
    assert sentence in f"{error['message']}: {error['details']}"


def test_a_ratio_of_nothing_is_refused(talk, make, find):
    workflow = make("tiny")
    workflow[find(workflow, "Residual Compression")]["inputs"] = {"mode": "ratio", "mode.ratio": 0}
    (((error,)),) = refusal(talk, workflow).values()
    assert (error["message"], error["details"]) == ("Value 0.0 smaller than min of 1.1", "mode.ratio")


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"mode": "lookahead"}, "mode is 'lookahead'; choose one of off, look_ahead."),
        ({"mode": "look_ahead", "mode.look_ahead": 65}, "Value 65 bigger than max of 64"),
        (
            {"mode": "look_ahead", "mode.tail": 2},
            "Step Reuse has no input mode.tail with mode look_ahead; it has mode, ",
        ),
        ({"look_ahead": 2}, "Step Reuse has no input look_ahead; it has mode."),
    ],
)
def test_step_reuse_is_judged_too(talk, make, find, inputs, sentence):
    workflow = make("tiny_step_reuse")
    workflow[find(workflow, "Step Reuse")]["inputs"] = inputs
    ((number, (error,)),) = refusal(talk, workflow).items()
    assert number == find(workflow, "Step Reuse")
    assert sentence in f"{error['message']}: {error['details']}"


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "tiny",
            {"Parallel_Worker_Pool__devices": "cpu*3"},
            "The degrees multiply to 2 (",
        ),
        ("tiny", {"Parallel_Worker_Pool__devices": "cpu*3"}, "but the pool has 3 workers; make both numbers equal."),
        ("tiny", {"Parallel_Strategy__mode.step_degree": 2}, "The degrees multiply to 4 "),
        (
            "tiny_step_reuse",
            {"Parallel_Strategy__mode.step_degree": 4, "Parallel_Worker_Pool__devices": "cpu*4"},
            "step_degree is 4 but look_ahead of Step Reuse is 2",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_on_parallel_model(talk, make, find, name, changes, sentence):
    workflow = make(name, **changes)
    ((number, (error,)),) = refusal(talk, workflow).items()
    assert number == find(workflow, "Parallel Model")
    assert error["extra_info"]["input_name"] == "strategy"
    assert sentence in error["details"]


def test_two_wrong_nodes_are_told_each(talk, make, find):
    workflow = make("tiny", Parallel_Worker_Pool__devices="gpu0", Residual_Compression__mode="qualty")
    assert set(refusal(talk, workflow)) == {
        find(workflow, "Parallel Worker Pool"),
        find(workflow, "Residual Compression"),
    }


def test_a_wrong_name_is_told_where_the_workflow_leaves_everything_else_out(talk, make, find):
    workflow = make("tiny")
    workflow[find(workflow, "Residual Compression")]["inputs"] = {"codec": "2bit"}
    (((error,)),) = refusal(talk, workflow).values()
    assert "Residual Compression has no input codec; it has predictor, " in error["details"]


def test_nothing_has_run(talk, before):
    """Negative control of the whole file: the server has started no worker and has kept no further history."""
    assert begun(talk) == before


def test_a_path_stands_for_a_folder_that_is_not_there(talk, tmp_path):
    """Negative control: the workflow is taken, and fails when the node looks into the folder."""
    with pytest.raises(NodeError, match=r"which has no model_index\.json"):
        talk.run(pipeline(folder="Latte-9", path=str(tmp_path)))


def test_links_and_inputs_of_another_mode_are_no_mistakes(talk, make, find):
    workflow = make("tiny_exact", KSampler__seed=77)
    workflow[find(workflow, "Residual Compression")]["inputs"]["mode.rank"] = 8  # of a mode that is not chosen
    workflow["50"] = {"class_type": "PrimitiveString", "inputs": {"value": "cpu,cpu"}, "_meta": {"title": "Devices"}}
    workflow[find(workflow, "Parallel Worker Pool")]["inputs"]["devices"] = ["50", 0]
    talk.run(workflow)
    assert talk.server.get("/parallel/runs/latest")["devices"] == ["cpu", "cpu"]
