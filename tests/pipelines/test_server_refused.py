"""What cannot work in a real ComfyUI server: one sentence on the node, no worker started and no code run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from compact_parallel.workflows.client import NodeError
from pipeline_prompts import LOOK_AHEAD, POOL, prompt
from safetensors.torch import load_file, save_file
from tiny_pipelines import saved

pytestmark = pytest.mark.server
UNUSED = "never started"
TRAP = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Trap: pass\n"


class Pickled:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def folder(shared_tiny_pipelines):
    for name in ("pixart", "flux", "wan", "latte"):
        saved(name, shared_tiny_pipelines)
    return shared_tiny_pipelines


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture
def traps(folder, tmp_path, marker):
    """A folder with a PixArt that a test may change, and with code beside its parts that leaves a mark."""
    copy = shutil.copytree(folder / "pixart", tmp_path / "pixart")
    for place in (copy, copy / "vae"):
        for name in ("trap_module", "pipeline", "vae"):
            (place / f"{name}.py").write_text(TRAP.format(marker=str(marker)))
    return tmp_path


def said(talk, made, node):
    """The sentence on a node."""
    with pytest.raises(NodeError) as caught:
        talk.run(made)
    assert caught.value.node == node
    sentence = str(caught.value).partition("): ")[2]
    assert sentence.endswith(".") and "\n" not in sentence and "on_unsupported" not in sentence
    return sentence


def change_index(pipeline, **changes):
    index = pipeline / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))


def no_index(pipeline, marker):
    (pipeline / "model_index.json").unlink()


def no_component(pipeline, marker):
    shutil.rmtree(pipeline / "tokenizer")


def a_pickle(pipeline, marker):
    (pipeline / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    trap = pipeline / "vae" / "diffusion_pytorch_model.bin"
    trap.write_bytes(pickle.dumps(Pickled(marker)))


def a_wrong_class(pipeline, marker):
    change_index(pipeline, vae=["diffusers", "AutoencoderKLWan"])


def a_foreign_module(pipeline, marker):
    change_index(pipeline, vae=["trap_module", "Trap"])


def code_of_its_own(pipeline, marker):
    change_index(pipeline, _class_name=["pipeline", "Trap"])


def an_unknown_pipeline(pipeline, marker):
    change_index(pipeline, _class_name="TrapPipeline")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_index, "which has no model_index.json; choose one in the layout of diffusers"),
        (no_component, "tokenizer is missing; fetch the pipeline again"),
        (a_pickle, "has its weights as diffusion_pytorch_model.bin, a file that can run code when it is loaded"),
        (a_wrong_class, "names AutoencoderKLWan for vae, and PixArtSigmaPipeline wants AutoencoderKL; choose another"),
        (a_foreign_module, "takes vae from 'trap_module', and only diffusers and transformers are allowed"),
        (code_of_its_own, "names the pipeline ['pipeline', 'Trap'], code of its own that is not run"),
        (an_unknown_pipeline, "names the pipeline 'TrapPipeline', which is not one of diffusers"),
    ],
)
def test_a_folder_that_cannot_be_used(talk, traps, marker, spoil, words):
    spoil(traps / "pixart", marker)
    assert words in said(talk, prompt(traps, "pixart", pool=UNUSED), "pipe")
    assert not marker.exists()
    if spoil is a_pickle:  # negative controls: the traps work
        pickle.loads((traps / "pixart" / "vae" / "diffusion_pytorch_model.bin").read_bytes())
        assert marker.exists()
    if spoil is a_foreign_module:
        exec((traps / "pixart" / "trap_module.py").read_text(), {})
        assert marker.exists()


def test_no_folder_at_all(talk, folder):
    made = prompt(folder, "flux", pool=UNUSED)
    made["pipe"]["inputs"]["path"] = str(folder / "nothing")
    assert "nothing', which is not a folder; choose one that holds a model_index.json." in said(talk, made, "pipe")
    del made["pipe"]["inputs"]["path"]
    assert "there is no folder with a model_index.json in models/diffusers; put one" in said(talk, made, "pipe")


def manual(**degrees):
    return {"strategy": ("CompactParallelStrategy", {"mode": "manual", **{f"mode.{k}": v for k, v in degrees.items()}})}


@pytest.mark.parametrize(
    ("name", "way", "inputs", "words"),
    [
        (
            "wan",
            {},
            {"frames": 8},
            "frames is 8, but WanPipeline makes 1 frame more than multiples of 4; choose 5 or 9",
        ),
        ("flux", {}, {"frames": 9}, "frames is set, but FluxPipeline does not take it"),
        ("flux", {}, {"width": 100}, "width is 100, but FluxPipeline makes multiples of 16; choose 96 or 112."),
        ("flux", {}, {"arguments": {"foo": 1}}, "arguments sets foo, which FluxPipeline does not take; it takes "),
        ("flux", {}, {"arguments": {"max_sequence_length": "many"}}, "sets max_sequence_length to 'many', but FluxPip"),
        ("flux", {}, {"arguments": '{"foo'}, "arguments is not JSON (Unterminated string"),
        ("flux", {}, {"arguments": "[1]"}, "arguments is '[1]'; write a JSON object"),
        ("flux", {}, {"arguments": {"generator": 1}}, "arguments sets generator, which the workers set themselves"),
        ("flux", {}, {"scheduler": "DDIMScheduler"}, "scheduler is 'DDIMScheduler', which does not fit FluxPipeline"),
        ("flux", {"engine": "xdit", "step_reuse": LOOK_AHEAD}, {}, "Step Reuse does not work with engine xdit"),
        ("wan", {"engine": "xdit"}, {}, "xDiT is not known to run WanPipeline right; it runs FluxPipeline, "),
        ("flux", {"engine": "xdit", **manual(ring_degree=3)}, {}, "is 3, but there are 2 workers; change "),
        ("flux", manual(ring_degree=3), {}, "The degrees multiply to 3 ("),
        ("flux", manual(cfg_degree=2), {}, "cfg_degree is 2 but the guider evaluates 1 condition per call"),
        ("pixart", manual(ulysses_degree=1, step_degree=2), {"steps": 2}, "step_degree"),
    ],
)
def test_a_run_that_cannot_work(talk, folder, name, way, inputs, words):
    assert words in said(talk, prompt(folder, name, pool=UNUSED, way=way, **inputs), "sample")


def test_no_worker_has_started(talk):
    """Negative control of the tests before: their pool was never made."""
    assert UNUSED not in {pool["name"] for pool in talk.pools()}


def test_a_missing_weight_is_told_by_the_workers_which_can_be_used_afterwards(talk, traps, folder, marker):
    file = traps / "pixart" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["proj_out.weight"]
    save_file(weights, file)
    sentence = said(talk, prompt(traps, "pixart"), "sample")
    assert "lacks 1 of the weights of PixArtTransformer2DModel, such as proj_out.weight; fetch" in sentence
    assert not marker.exists()
    talk.run(prompt(folder, "flux", steps=1))
    (pool,) = (pool for pool in talk.pools() if pool["name"] == POOL)
    assert pool["starts"] == 1 and pool["state"] == "idle"
