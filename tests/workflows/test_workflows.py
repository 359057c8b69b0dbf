"""Every shipped workflow, in both forms, against the real server; the tiny ones run."""

from __future__ import annotations

import copy
import io
import itertools
import json
import re

import diffusers
import numpy as np
import pytest
import torch
from authoring.every import WORKFLOWS, forms
from authoring.layout import TITLE
from checking import FILE_CHOICES, complaints, to_api, with_defaults
from compact_parallel.runtime.pipelines.inputs import PipelineInputs, keyword_arguments
from compact_parallel.workflows.client import NodeError
from live_server import ROOT, node, shipped
from PIL import Image

FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
TINY = [name for name in NAMES if name.startswith("tiny")]
REAL = [name for name in NAMES if name not in TINY]
PIPELINES = [name for name in REAL if name.startswith("pipeline_")]
CLASSES = {
    "pipeline_audioldm2": "AudioLDM2Pipeline",
    "pipeline_latte": "LattePipeline",
    "pipeline_cogvideox": "CogVideoXPipeline",
    "pipeline_svd": "StableVideoDiffusionPipeline",
    "pipeline_sd3": "StableDiffusion3Pipeline",
    "pipeline_flux": "FluxPipeline",
    "pipeline_pixart_sigma": "PixArtSigmaPipeline",
    "pipeline_wan": "WanPipeline",
}
"""The class of the pipeline in each folder."""
SEEDS = itertools.count(5000)

pytestmark = pytest.mark.server


def graph(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def pixels(talk, file):
    return np.asarray(Image.open(io.BytesIO(talk.fetch(file))).convert("RGB")).astype(float)


def test_every_workflow_is_there_in_both_forms():
    assert NAMES == sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == sorted(WORKFLOWS)
    for family in (
        "flux1",
        "flux2",
        "qwen_image",
        "sd3.5",
        "sdxl",
        "svd",
        "ltx",
        "hunyuan",
        "wan2.2_14b_t2v",
        "wan2.2_14b_i2v",
        *CLASSES,
    ):
        assert any(name.startswith(family) for name in REAL), family


def test_the_template_browser_finds_them(talk):
    (found,) = talk.server.get("/workflow_templates").values()
    assert sorted(found) == NAMES
    for name in NAMES:
        assert talk.server.get(f"/api/workflow_templates/ComfyUI-CompactParallel/{name}.json") == graph(name)
    for name in TINY:  # the browser shows a picture of this name beside the template
        assert Image.open(FOLDER / f"{name}.jpg").size == (384, 384)


@pytest.mark.parametrize("name", NAMES)
def test_the_api_form_is_valid(object_info, name):
    assert complaints(shipped(name), object_info) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_ui_form_says_the_same(object_info, name):
    assert with_defaults(to_api(graph(name), object_info), object_info) == with_defaults(shipped(name), object_info)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"6": {"class_type": "NoSuchNode"}}, "6: there is no node NoSuchNode"),
        ({"6": {"inputs": {"stps": 4}}}, "6 KSampler.stps is no input"),
        ({"6": {"inputs": {"steps": "many"}}}, "6 KSampler.steps: 'many' is no INT"),
        ({"6": {"inputs": {"steps": 0}}}, "6 KSampler.steps: 0 is not from 1 to 10000"),
        ({"6": {"inputs": {"sampler_name": "oiler"}}}, r"6 KSampler.sampler_name: 'oiler' is none of"),
        ({"6": {"inputs": {"model": ["2", 0]}}}, "6 KSampler.model: wants MODEL but gets VAE"),
        (
            {"14": {"inputs": {"latent": ["2", 0]}}},
            "14 CompactParallelReport.latent: wants LATENT,IMAGE,VIDEO,AUDIO but",
        ),
        ({"14": {"inputs": {"latent": ["7", 0]}}}, "9 SaveLatent.samples: wants LATENT but gets IMAGE"),
        ({"6": {"inputs": {"model": ["1", 7]}}}, "6 KSampler.model: node 1 has no output 7"),
        ({"12": {"inputs": {"mode": "ratio"}}}, "12 CompactParallelCompression.mode.codec is no input"),
        ({"12": {"inputs": {"mode.codec": "5bit"}}}, "12 CompactParallelCompression.mode.codec: '5bit' is none of"),
    ],
)
def test_the_check_notices(object_info, change, complaint):
    """Negative control of the tests above."""
    broken = shipped("tiny")
    for number, parts in change.items():
        for key, value in parts.items():
            broken[number][key] = {**broken[number][key], **value} if isinstance(value, dict) else value
    assert any(text.startswith(complaint) for text in complaints(broken, object_info))
    without = shipped("tiny")
    del without["6"]["inputs"]["positive"]
    assert complaints(without, object_info) == ["6 KSampler: positive is required"]


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_what_their_descriptions_make(object_info, name):
    """A description, a node or a file was changed without the others."""
    written = tuple((FOLDER / place / f"{name}.json").read_text() for place in ("", "api"))
    assert forms(object_info)[name] == written, "write them again: python3 tests/workflows/authoring --server URL"


def test_a_seed_that_is_shared_is_one(object_info):
    """In the comparison both samplers take the seed from one node."""
    samplers = [one for one in shipped("tiny_comparison").values() if one["class_type"] == "KSampler"]
    assert len(samplers) == 2
    assert samplers[0]["inputs"]["seed"] == samplers[1]["inputs"]["seed"] != 1
    different = {key for key in samplers[0]["inputs"] if samplers[0]["inputs"][key] != samplers[1]["inputs"][key]}
    assert different == {"model"}


def box(one):
    (x, y), (width, height) = one["pos"], one["size"]
    return x, y - TITLE, x + width, y + height


def apart(a, b):
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def inside(a, b):
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_laid_out_cleanly(name):
    """Nothing overlaps, every node is inside one group, links go to the right or down."""
    made = graph(name)
    groups = [(x, y, x + width, y + height) for x, y, width, height in (one["bounding"] for one in made["groups"])]
    boxes = {one["id"]: box(one) for one in made["nodes"]}
    assert len(boxes) == len(made["nodes"])
    assert all(apart(a, b) for a, b in itertools.combinations(boxes.values(), 2))
    assert all(apart(a, b) for a, b in itertools.combinations(groups, 2))
    assert all(sum(inside(one, group) for group in groups) == 1 for one in boxes.values())
    for link in made["links"]:
        source, target = boxes[link[1]], boxes[link[3]]
        assert source[0] < target[0] or (source[0] == target[0] and source[1] < target[1]), link
    assert {one["title"] for one in made["groups"]} >= {"Read me", "Model"}


@pytest.mark.parametrize("name", NAMES)
def test_links_are_noted_at_both_ends(name):
    made = graph(name)
    nodes = {one["id"]: one for one in made["nodes"]}
    assert made["last_node_id"] == max(nodes) and made["last_link_id"] == max(link[0] for link in made["links"])
    for number, source, output, target, slot, kind in made["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == number
    ends = [one["link"] for node in nodes.values() for one in node["inputs"] if one["link"] is not None]
    assert sorted(ends) == sorted(link[0] for link in made["links"])


@pytest.mark.parametrize("name", REAL)
def test_the_note_names_every_file_and_the_server_looks_for_it_there(talk, name):
    """With files of these names in these folders the server takes the workflow, and fails only when it opens them."""
    made, prompt = graph(name), shipped(name)
    (note,) = (one["widgets_values"][0] for one in made["nodes"] if one["type"] == "MarkdownNote")
    folders = dict(re.findall(r"- \[([^\]]+)\]\(https://[^)]*/\1\) → `models/(\w+)/`", note))
    wanted = {
        node["inputs"][one]
        for node in prompt.values()
        for one in FILE_CHOICES.get(node["class_type"], ())
        if one != "image"
    }
    assert wanted == set(folders)
    models = [model for one in made["nodes"] for model in one.get("properties", {}).get("models", [])]
    told = {model["name"]: model["directory"] for model in models}
    assert told == ({} if name in PIPELINES else folders)  # a browser fetches files, not folders
    for file, folder in folders.items():
        place = talk.folder / "models" / folder / file
        if name in PIPELINES:
            place = place / "model_index.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (talk.folder / "input").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), "teal").save(talk.folder / "input" / "example.png")
    with pytest.raises(NodeError) as caught:
        talk.run(prompt)
    assert caught.value.node_type in FILE_CHOICES


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_takes_its_settings_and_goes_to_what_saves_its_kind(name):
    prompt = shipped(name)
    kinds = {one["class_type"]: one["inputs"] for one in prompt.values()}
    sampled, chosen = kinds["CompactParallelPipelineSample"], kinds["CompactParallelPipeline"]
    assert prompt[sampled["pipeline"][0]]["class_type"] == "CompactParallelPipeline"
    assert {"pool", "strategy", "step_reuse"} <= chosen.keys() and sampled["steps"] >= 20
    assert ("image" in sampled) == (name == "pipeline_svd")
    (saved,) = [kind for kind in kinds if kind.startswith("Save")]
    (link,) = [value for value in kinds[saved].values() if isinstance(value, list)]
    assert prompt[link[0]]["class_type"] == "CompactParallelPipelineSample"
    audio, picture = name == "pipeline_audioldm2", name.endswith(("sd3", "flux", "sigma"))
    image = torch.zeros(1, 8, 8, 3) if "image" in sampled else None
    given = PipelineInputs(**{key: value for key, value in sampled.items() if not isinstance(value, list)})
    taken = keyword_arguments(getattr(diffusers, CLASSES[name]), given, image)
    assert taken["num_inference_steps"] == sampled["steps"]
    assert (saved, link[1]) == (("SaveAudio", 2) if audio else ("SaveImage", 0) if picture else ("SaveVideo", 1))


@pytest.mark.parametrize("name", [name for name in REAL if name not in PIPELINES])
def test_a_model_passes_through_parallel_model_before_it_is_sampled(name):
    prompt = shipped(name)
    samples = [
        node
        for node in prompt.values()
        if "model" in node["inputs"] and ("Sampler" in node["class_type"] or "Guider" in node["class_type"])
    ]
    assert samples
    for one in samples:
        assert prompt[one["inputs"]["model"][0]]["class_type"] == "CompactParallelModel"
    assert any(one["class_type"] == "CompactParallelReport" for one in prompt.values())


def small(name, steps):
    """A tiny workflow made quicker, with a seed of its own."""
    made = copy.deepcopy(shipped(name))
    seed = next(SEEDS)
    for one in made.values():
        if one["class_type"] in ("EmptySD3LatentImage", "CompactParallelPipelineSample"):
            one["inputs"].update(width=256, height=240)
        if one["class_type"] in ("KSampler", "CompactParallelPipelineSample"):
            one["inputs"]["steps"] = steps
            if not isinstance(one["inputs"]["seed"], list):
                one["inputs"]["seed"] = seed
        elif one["class_type"] == "PrimitiveInt":
            one["inputs"]["value"] = seed
    return made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in TINY if name != "tiny_comparison"])
def test_the_tiny_workflow_runs(talk, name):
    steps = 9 if name == "tiny_step_reuse" else 4
    prompt = small(name, steps)
    _, outputs = talk.run(prompt)
    picture = pixels(talk, outputs[node(prompt, "Save Image")]["images"][0])
    assert picture.shape == (240, 256, 3) and picture.std() > 5
    if name == "tiny_stock":
        return
    if name == "tiny_pipeline":
        report = talk.server.get("/parallel/runs/latest")
    else:
        report = json.loads(outputs[node(prompt, "Report")]["text"][0])
    assert report["workers"] == 2 and report["calls"] == steps
    assert (report["effective_ratio"] > 1) == (name == "tiny")
    assert (report["rounds"] < report["calls"]) == (name == "tiny_step_reuse")


@pytest.mark.timeout(600)
def test_the_comparison_runs(talk):
    """Its numbers are those of its pictures and its reports."""
    prompt = small("tiny_comparison", 6)
    _, outputs = talk.run(prompt)
    shown = {
        title: outputs[node(prompt, title)] for title in ("Stock Picture", "Parallel Picture", "Difference, Ten Times")
    }
    stock, parallel, difference = (pixels(talk, one["images"][0]) for one in shown.values())
    summary = outputs[node(prompt, "Summary")]["text"][0]
    said = float(re.search(r"PSNR ([\d.]+) dB", summary)[1])
    measured = 10 * np.log10(255**2 / np.mean((stock - parallel) ** 2))
    assert said == pytest.approx(measured, abs=1.0)  # the files are rounded to 8 bits
    assert 25 < said < 80
    assert difference.max() > np.abs(stock - parallel).max()
    slow, fast = talk.server.get("/parallel/runs")[:2]
    if slow["workers"] == 2:
        slow, fast = fast, slow
    assert (slow["workers"], fast["workers"]) == (1, 2)
    assert slow["run_id"] != fast["run_id"]
    ratio = slow["sampling_seconds"] / fast["sampling_seconds"]
    assert f"{ratio:.2f} times as fast as the reference." in summary
    assert "image: " in summary and "on 2 workers (cpu x 2)." in summary and "on 1 worker (cpu)." in summary
