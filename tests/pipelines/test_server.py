"""Pipelines in a real ComfyUI server: what they make is saved, their steps are seen, their report comes out."""

from __future__ import annotations

import io
import json
import struct

import av
import numpy as np
import pytest
from compact_parallel.workflows import client as client_module
from compact_parallel.workflows.client import Cached, Executed, NodeError, Preview, Progress
from PIL import Image
from pipeline_prompts import POOL, SEEDS, prompt, with_nodes
from tiny_pipelines import saved

pytestmark = pytest.mark.server
TEXT_EVENT = 3
STEPS = [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.fixture(scope="module")
def folder(shared_tiny_pipelines):
    for name in ("sd3", "flux", "wan", "audioldm2"):
        saved(name, shared_tiny_pipelines)
    return shared_tiny_pipelines


def latest(talk):
    return talk.server.get("/parallel/runs/latest")


def pixels(talk, outputs, save="SaveImage"):
    """The saved pictures, (N, H, W, C)."""
    return np.stack([np.asarray(Image.open(io.BytesIO(talk.fetch(file)))) for file in outputs[save]["images"]])


def steps_of(events):
    return [(event.value, event.maximum) for event in events if isinstance(event, Progress) and event.node == "sample"]


def test_a_picture_with_its_steps_previews_and_report(talk, folder, monkeypatch):
    texts = []
    preview = client_module._preview

    def listen(message):
        kind, length = struct.unpack_from(">II", message)
        if kind == TEXT_EVENT:
            texts.append((message[8 : 8 + length].decode(), message[8 + length :].decode()))
        return preview(message)

    monkeypatch.setattr(client_module, "_preview", listen)
    events, outputs = talk.run(prompt(folder, "sd3"))
    (picture,) = pixels(talk, outputs)
    assert picture.shape == (128, 128, 3) and picture.std() > 1
    assert steps_of(events) == STEPS
    assert sum(isinstance(event, Preview) for event in events) == 4
    report = latest(talk)
    assert report["model"] == "StableDiffusion3Pipeline" and report["node"] == "sample"
    assert report["workers"] == 2 and report["devices"] == ["cpu", "cpu"] and report["steps"] == report["calls"] == 4
    assert report["bytes_sent"] > 0 and report["warnings"] == []
    assert {node for node, _ in texts} == {"pipe"}
    assert texts[-1][1] == report["result"] and any(text.startswith("Step ") for _, text in texts)
    (pool,) = (pool for pool in talk.pools() if pool["name"] == POOL)
    assert pool["state"] == "idle" and pool["run"]["run_id"] == report["run_id"]
    assert pool["run"]["model"] == "StableDiffusion3Pipeline" and (pool["run"]["step"], pool["run"]["total"]) == (4, 4)


def test_a_model_with_other_latents_than_usual_has_no_previews(talk, folder):
    events, outputs = talk.run(prompt(folder, "flux"))
    assert pixels(talk, outputs).shape == (1, 128, 128, 3)
    assert not any(isinstance(event, Preview) for event in events)
    assert steps_of(events)[-1] == (4, 4)


def test_a_video_is_saved_as_one_and_as_frames(talk, folder):
    _, outputs = talk.run(prompt(folder, "wan", saves=("SaveImage", "SaveVideo")))
    assert pixels(talk, outputs).shape == (9, 64, 64, 3)
    with av.open(io.BytesIO(talk.fetch(outputs["SaveVideo"]["images"][0]))) as video:
        stream = video.streams.video[0]
        assert (stream.frames, float(stream.average_rate)) == (9, 16.0)  # Wan's own rate


def test_a_sound_is_saved(talk, folder):
    _, outputs = talk.run(prompt(folder, "audioldm2", saves=("SaveAudio",)))
    with av.open(io.BytesIO(talk.fetch(outputs["SaveAudio"]["audio"][0]))) as sound:
        (stream,) = sound.streams.audio
        assert stream.rate == 16000 and sound.duration / av.time_base == pytest.approx(0.64, abs=0.05)


@pytest.mark.parametrize(
    ("name", "fits", "blocked", "sentence"),
    [
        (
            "flux",
            "SaveImage",
            "SaveAudio",
            "This pipeline makes a picture, so Sample Pipeline has no sound to give; take its output IMAGE.",
        ),
        (
            "wan",
            "SaveVideo",
            "SaveAudio",
            "This pipeline makes a video, so Sample Pipeline has no sound to give; take its output VIDEO.",
        ),
        (
            "audioldm2",
            "SaveAudio",
            "SaveImage",
            "This pipeline makes sound, so Sample Pipeline has no picture to give; take its output AUDIO.",
        ),
    ],
)
def test_what_a_pipeline_does_not_make_is_blocked_and_the_rest_is_saved(talk, folder, name, fits, blocked, sentence):
    ended = []
    with pytest.raises(NodeError) as caught:
        talk.run(
            prompt(folder, name, saves=(fits, blocked), steps=2),
            lambda client, number, event: ended.append(event) if isinstance(event, Executed) else None,
        )
    assert caught.value.node == blocked and str(caught.value).endswith(sentence)
    assert [event.node for event in ended] == [fits]


def test_a_seed_is_its_picture_and_a_cached_node_does_not_run(talk, folder):
    first, again, other = (prompt(folder, "sd3", seed=seed, steps=2) for seed in (1, 1, next(SEEDS)))
    one = pixels(talk, talk.run(first)[1])
    run = latest(talk)["run_id"]
    events, _ = talk.run(again)
    assert any("sample" in event.nodes for event in events if isinstance(event, Cached))
    assert latest(talk)["run_id"] == run
    two = pixels(talk, talk.run(other)[1])
    three = pixels(talk, talk.run(again)[1])
    assert latest(talk)["run_id"] != run
    assert (three == one).all() and (two != one).any()


@pytest.mark.parametrize(
    ("name", "output", "save", "link"),
    [("flux", 0, "SaveImage", "images"), ("wan", 1, "SaveVideo", "video"), ("audioldm2", 2, "SaveAudio", "audio")],
)
def test_parallel_report_takes_what_a_pipeline_made_and_passes_it_on(talk, folder, name, output, save, link):
    made = prompt(folder, name, saves=(save,), steps=2)
    made[save]["inputs"][link] = ["report", 0]
    _, outputs = talk.run(reported(made, "sample", output))
    assert json.loads(outputs["json"]["text"][0]) == latest(talk)
    assert latest(talk)["warnings"] == [] and latest(talk)["node"] == "sample"
    assert outputs["report"]["text"][0].startswith(latest(talk)["model"]) and outputs[save]


def reported(made, source, output=0):
    """A prompt with Parallel Report behind a node, the JSON of which is shown."""
    report = ("CompactParallelReport", {"latent": [source, output]})
    return with_nodes(made, report=report, json=("PreviewAny", {"source": ["report", 3]}))


def test_parallel_report_follows_pictures_back_to_their_run(talk, folder):
    scaled = {"image": ["sample", 0], "upscale_method": "bilinear", "scale_by": 0.5}
    made = with_nodes(prompt(folder, "flux", saves=(), steps=2), half=("ImageScaleBy", scaled))
    _, outputs = talk.run(reported(made, "half"))
    report = json.loads(outputs["json"]["text"][0])
    assert report["run_id"] == latest(talk)["run_id"]
    assert report["warnings"] == ["The result was changed after this run, by Upscale Image By (node half)."]


def test_parallel_report_never_shows_another_run(talk, folder):
    blank = ("EmptyImage", {"width": 128, "height": 128, "batch_size": 1, "color": 0})
    with pytest.raises(NodeError, match="latent: it was not sampled on a pool") as caught:
        talk.run(reported(with_nodes({}, blank=blank), "blank"))
    assert caught.value.node == "report"
    made = prompt(folder, "flux", saves=(), steps=2)
    twin = made["sample"]["inputs"] | {"seed": next(SEEDS)}
    blend = {"image1": ["sample", 0], "image2": ["twin", 0], "blend_factor": 0.5, "blend_mode": "normal"}
    both = with_nodes(made, twin=("CompactParallelPipelineSample", twin), blend=("ImageBlend", blend))
    with pytest.raises(NodeError, match=r"several parallel runs \(node sample, node twin\)"):
        talk.run(reported(both, "blend"))
