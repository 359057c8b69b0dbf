"""The templates for pipelines run to what they save, with tiny pipelines of random weights in the folders they name."""

from __future__ import annotations

import json

import live_server
import pytest
from live_server import node, shipped
from PIL import Image
from tiny_pipelines import arguments, picture, saved

pytestmark = pytest.mark.server
TEMPLATES = {
    "pipeline_audioldm2": "audioldm2",
    "pipeline_latte": "latte",
    "pipeline_cogvideox": "cogvideox",
    "pipeline_svd": "svd",
    "pipeline_sd3": "sd3",
    "pipeline_flux": "flux",
    "pipeline_pixart_sigma": "pixart",
    "pipeline_wan": "wan",
}
"""The tiny pipeline for each."""
OF_THE_NODE = {
    "width": "width",
    "height": "height",
    "num_frames": "frames",
    "video_length": "frames",
    "audio_length_in_s": "seconds",
}
STEPS = 20
"""As many as Step Reuse needs with the templates' warm-up."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A server that has the folders."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "input").mkdir()
    picture(64, 128).save(folder / "input" / "example.png")
    for template, tiny in TEMPLATES.items():
        prompt = shipped(template)
        place = folder / "models" / "diffusers" / prompt[node(prompt, "Parallel Pipeline")]["inputs"]["folder"]
        saved(tiny, folder / "tiny")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder / "tiny" / tiny, target_is_directory=True)
    with live_server.running(folder) as talk:
        yield talk


def small(template):
    """The template with the sizes of its tiny pipeline."""
    prompt = shipped(template)
    given = arguments(TEMPLATES[template])
    sampled = prompt[node(prompt, "Sample Pipeline")]["inputs"]
    sampled.update({own: given[name] for name, own in OF_THE_NODE.items() if name in given}, steps=STEPS)
    further = {key: value for key, value in given.items() if isinstance(value, bool) or key == "max_sequence_length"}
    return prompt, {**prompt[node(prompt, "Sample Pipeline")], "inputs": {**sampled, "arguments": json.dumps(further)}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_runs_to_what_it_saves(loaded, template):
    prompt, sampled = small(template)
    prompt[node(prompt, "Sample Pipeline")] = sampled
    _, outputs = loaded.run(prompt)
    (title,) = [one["_meta"]["title"] for one in prompt.values() if one["class_type"].startswith("Save")]
    (files,) = [found for found in outputs[node(prompt, title)].values() if isinstance(found[0], dict)]
    content = loaded.fetch(files[0])
    assert len(content) > 500
    if prompt[node(prompt, title)]["class_type"] == "SaveImage":
        assert min(Image.open(loaded.folder / "output" / files[0]["filename"]).size) >= 64
    report = loaded.server.get("/parallel/runs/latest")
    assert f"{report['workers']} workers" in outputs[node(prompt, "Summary")]["text"][0]
    assert report["workers"] == 2 and report["calls"] >= STEPS
    shared = "cfg_degree" if template not in ("pipeline_flux", "pipeline_wan") else "ring_degree"
    assert report["strategy"][shared] == 2
