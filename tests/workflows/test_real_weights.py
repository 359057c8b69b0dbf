"""A workflow for real weights runs end to end, with a file of the expected name and random weights in it."""

from __future__ import annotations

import io

import live_server
import numpy as np
import pytest
from live_server import node, shipped
from PIL import Image
from random_weights import save_sd35

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A server that has the file."""
    folder = tmp_path_factory.mktemp("real_weights")
    (folder / "models" / "checkpoints").mkdir(parents=True)
    save_sd35(folder / "models" / "checkpoints" / "sd3.5_large_fp8_scaled.safetensors")
    with live_server.running(folder) as talk:
        yield talk


def picture(talk, prompt):
    _, outputs = talk.run(prompt)
    file = outputs[node(prompt, "Save Image")]["images"][0]
    return np.asarray(Image.open(io.BytesIO(talk.fetch(file))).convert("RGB")).astype(float)


def prompt_of(steps, text):
    prompt = shipped("sd3.5_large")
    prompt[node(prompt, "Empty Latent")]["inputs"].update(width=256, height=256)
    prompt[node(prompt, "KSampler")]["inputs"]["steps"] = steps
    prompt[node(prompt, "Positive Prompt")]["inputs"]["text"] = text
    return prompt


@pytest.mark.timeout(600)
def test_sd35_runs_from_the_checkpoint_to_the_picture(loaded):
    prompt = prompt_of(4, "a red fox")
    parallel = picture(loaded, prompt)
    report = loaded.server.get("/parallel/runs/latest")
    assert report["model"] == "SD3" and report["workers"] == 2 and report["fallbacks"] == []
    assert report["strategy"]["cfg_degree"] == 2 and report["calls"] == 4
    assert parallel.shape == (256, 256, 3) and np.isfinite(parallel).all() and parallel.std() > 5

    alone = prompt_of(4, "a red fox")
    sampler, parallel_model = (alone[node(alone, title)]["inputs"] for title in ("KSampler", "Parallel Model"))
    sampler["model"] = parallel_model["model"]
    report_node = alone[node(alone, "Parallel Report")]["inputs"]
    alone[node(alone, "VAE Decode")]["inputs"]["samples"] = report_node["latent"]
    stock = picture(loaded, {key: value for key, value in alone.items() if needed(alone, key)})
    assert np.abs(parallel - stock).max() <= 2  # of 255: rounding to 8 bits

    other = picture(loaded, prompt_of(4, "a green parrot in the jungle"))
    assert np.abs(parallel - other).max() > 2  # negative control: what is in the prompt arrives


def needed(prompt, key):
    """Whether a node is no part of the report."""
    return prompt[key]["class_type"] not in ("CompactParallelReport", "PreviewImage", "PreviewAny")
