"""The demo: what it compares, the workflows it posts, and the whole job on a real server with real workers."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from compact_parallel.workflows import demo_job
from compact_parallel.workflows.demo_job import Run, compare, find, with_sampling
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = os.environ.get("COMFYUI_PATH")
NAMES = ("tiny_stock", "tiny", "tiny_exact")


def load(name):
    return json.loads((ROOT / f"workflows/api/{name}.json").read_text())


def make_run(seconds, latent, level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(buffer, "PNG")
    return Run(seconds, buffer.getvalue(), latent, None, {"run_id": str(seconds)})


def test_comparison_is_against_the_serial_run():
    latent = torch.tensor([1.0, -2.0])
    serial, parallel, exact = make_run(6.0, latent, 100), make_run(3.0, latent * 1.5, 151), make_run(4.0, latent, 100)
    report = compare(serial, parallel, exact)
    assert (report["speedup"], report["exact_speedup"]) == (2.0, 1.5)
    assert report["psnr_db"] == pytest.approx(20 * np.log10(255 / 51))
    assert (report["relative_error"], report["exact_relative_error"]) == (0.5, 0.0)
    assert (report["run"]["run_id"], report["exact_run"]["run_id"]) == ("3.0", "4.0")
    json.dumps(report, allow_nan=False)


def test_equal_pictures_are_still_json():
    run = make_run(1.0, torch.ones(2), 100)
    report = compare(run, run, run)
    assert report["psnr_db"] == demo_job.HIGHEST_PSNR_DB
    json.dumps(report, allow_nan=False)


def test_workflows_differ_only_in_the_parallel_nodes():
    """Stock and parallel sample the same picture; exact is parallel without compression."""
    stock, parallel, exact = (load(name) for name in NAMES)
    sampler = find(stock, "KSampler")
    for workflow in (parallel, exact):
        added = {node["class_type"] for key, node in workflow.items() if key not in stock}
        assert {"CompactParallelModel", "CompactParallelPool", "CompactParallelReport"} <= added
        assert find(workflow, "KSampler") == sampler
        changed = dict(workflow[sampler]["inputs"], model=None)
        assert changed == dict(stock[sampler]["inputs"], model=None)
        assert workflow[workflow[sampler]["inputs"]["model"][0]]["class_type"] == "CompactParallelModel"
        for key in stock.keys() - {
            sampler,
            *(find(stock, title) for title in ("VAE Decode", "Save Image", "Save Latent")),
        }:
            assert workflow[key] == stock[key]
    assert not any(
        node["class_type"].startswith("CompactParallel") for node in stock.values() if "Prompt" not in str(node)
    )
    compression = find(parallel, "Residual Compression")
    assert parallel[compression]["inputs"] == {"mode": "codec", "mode.codec": "2bit"}
    assert exact[compression]["inputs"] == {"mode": "off"}


def test_sampling_is_changed_in_a_copy():
    workflow = load("tiny")
    changed = with_sampling(workflow, seed=123, steps=2)
    inputs = changed[find(changed, "KSampler")]["inputs"]
    assert (inputs["seed"], inputs["steps"]) == (123, 2)
    assert workflow == load("tiny")


@pytest.mark.server
@pytest.mark.timeout(600)
@pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH is not set")
def test_the_whole_demo(tmp_path, capsys):
    assert demo_job.main(Path(COMFYUI), ROOT, tmp_path) == 0
    pictures = [
        np.asarray(Image.open(tmp_path / f"{name}.png")).astype(float) for name in ("serial", "parallel", "exact")
    ]
    assert {picture.shape for picture in pictures} == {(512, 512, 3)}
    assert all(picture.std() > 5 for picture in pictures)
    assert Image.open(tmp_path / "plot.png").width == 900
    report = json.loads((tmp_path / "report.json").read_text())
    assert min(report[f"{name}_seconds"] for name in ("serial", "parallel", "exact")) > 0
    assert report["speedup"] == report["serial_seconds"] / report["parallel_seconds"]
    assert report["exact_relative_error"] < 1e-5
    assert 40 <= report["psnr_db"] < demo_job.HIGHEST_PSNR_DB, "compressed and exact differ, and not visibly"
    assert report["relative_error"] > report["exact_relative_error"]
    run, exact_run = report["run"], report["exact_run"]
    assert run["devices"] == ["cpu", "cpu"] and run["calls"] == 20 and run["evaluations_per_rank"] == [20, 20]
    assert run["effective_ratio"] > 4 and exact_run["effective_ratio"] == pytest.approx(0.5)
    assert run["max_relative_error"] > 0 and exact_run["max_relative_error"] is None
    assert re.search(r"two workers, exact +\d+\.\d s +\d\.\d\d times as fast", capsys.readouterr().out)


@pytest.mark.server
@pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH is not set")
def test_what_fails_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    assert demo_job.main(Path(COMFYUI), ROOT, tmp_path / "file").startswith("Cannot write to")
