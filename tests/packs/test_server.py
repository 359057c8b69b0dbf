"""The fixture packs in a real ComfyUI server, installed as custom nodes, in folders whose names have dots."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import live_server
import pytest
from compact_parallel.nodes.demo_encoding import CONTEXT_DIM
from compact_parallel.workflows.client import NodeError
from compact_parallel.workflows.comfy_server import PACK_NAME, ComfyServer

pytestmark = pytest.mark.server

HERE = Path(__file__).resolve().parent
PACKS = {"style_patch": "style_patch.v1.2", "own_sampler": "own_sampler", "own_loader": "own-loader-0.3"}
SHARPEN = {"class_type": "FixtureSharpenAttention", "inputs": {"sharpness": 1.5}, "_meta": {"title": "Sharpen"}}
LOADER = {
    "class_type": "FixtureLoadTinyDenoiser",
    "inputs": {"width": 512, "text_width": CONTEXT_DIM, "seed": 0},
    "_meta": {"title": "Load Tiny"},
}


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A running server with this pack and the fixture packs."""
    folder = tmp_path_factory.mktemp("server")
    for pack, name in PACKS.items():
        shutil.copytree(HERE / pack, folder / "custom_nodes" / name)
    arguments = ("--cpu", "--whitelist-custom-nodes", PACK_NAME, *PACKS.values())
    comfyui = Path(os.environ["COMFYUI_PATH"])
    with ComfyServer(sys.executable, comfyui, live_server.ROOT, folder, arguments=arguments) as server:
        yield live_server.Talk(server)


def relative_error(x, expected):
    return float((x - expected).abs().max() / expected.abs().max())


def both(change, **changes):
    """The workflow in parallel and in stock; `change(workflow)` gives each the pack's nodes."""
    made = [live_server.workflow(name, **changes) for name in ("tiny_exact", "tiny_stock")]
    for workflow in made:
        change(workflow)
    return made


def put_behind_the_loader(workflow, *nodes):
    """Put nodes with a model input and output between Load Diffusion Model and what it was plugged into."""
    loader = live_server.node(workflow, "Load Diffusion Model")
    before = loader
    for number, node in enumerate(nodes, start=100):
        workflow[str(number)] = {**node, "inputs": {**node["inputs"], "model": [before, 0]}}
        before = str(number)
    for key, node in workflow.items():
        if int(key) < 100 and node["inputs"].get("model") == [loader, 0]:
            node["inputs"]["model"] = [before, 0]


def test_closures_options_and_an_attention_of_a_packs_own(talk):
    parallel, stock = both(lambda workflow: put_behind_the_loader(workflow, SHARPEN), KSampler__seed=1)
    expected = talk.latent(stock)
    assert relative_error(talk.latent(parallel), expected) < 1e-5
    plain = talk.latent(live_server.workflow("tiny_stock", KSampler__seed=1))
    assert relative_error(plain, expected) > 1e-3


def test_a_sampler_and_a_scheduler_of_a_pack(talk):
    changes = {"KSampler__sampler_name": "fixture_midpoint", "KSampler__scheduler": "fixture_cosine"}
    parallel, stock = both(lambda workflow: None, KSampler__seed=2, **changes)
    assert relative_error(talk.latent(parallel), talk.latent(stock)) < 1e-5
    assert talk.server.get("/fixture_sampler/order") == {"order": 2}


def test_a_model_of_a_packs_own_loader(talk):
    def load(workflow):
        workflow[live_server.node(workflow, "Load Diffusion Model")] = LOADER
        for key in [key for key, node in workflow.items() if node["_meta"]["title"] in ("VAE Decode", "Save Image")]:
            del workflow[key]  # its latents are not the VAE's
        if "11" in workflow:
            workflow["11"]["inputs"] |= {"mode.cfg_degree": 2, "mode.ring_degree": 1}

    parallel, stock = both(load, KSampler__seed=3)
    expected = talk.latent(stock)
    assert relative_error(talk.latent(parallel), expected) < 1e-5
    assert expected.shape[1] == 4


def test_what_cannot_travel_is_an_error_on_the_node_that_names_the_pack(talk, tmp_path):
    log = {"class_type": "FixtureKeepLog", "inputs": {"path": str(tmp_path / "log")}, "_meta": {"title": "Log"}}
    parallel, stock = both(lambda workflow: put_behind_the_loader(workflow, SHARPEN, log), KSampler__seed=4)
    with pytest.raises(NodeError, match=r"custom node pack style_patch\.v1\.2.*Bypass the node.*run on one device"):
        talk.run(parallel)
    parallel[live_server.node(parallel, "Parallel Model")]["inputs"]["on_unsupported"] = "run on one device"
    assert relative_error(talk.latent(parallel), talk.latent(stock)) == 0
