"""tests/gpu/check.py on a machine without a GPU: on a simulated card, and checks that fail because there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tiny_diffusion import needs_comfyui

pytestmark = needs_comfyui
CHECK = Path(__file__).resolve().parent / "check.py"
MOST = 2
"""The most waits of a model call; with a bound on the error it waits for every message."""


def check(out: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess:
    """A run in this ComfyUI, named as a user does; an argument --comfyui names another one."""
    environ = os.environ | environ
    command = [sys.executable, str(CHECK), "--out", str(out), "--comfyui", environ.pop("COMFYUI_PATH"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environ)


def found_in(out: Path) -> dict[str, dict]:
    return {found["check"]: found for found in json.loads((out / "gpu.json").read_text(encoding="utf-8"))}


def test_on_a_simulated_card(tmp_path):
    done = check(tmp_path, "--simulated")
    found = found_in(tmp_path)
    assert done.returncode == 0, found
    assert found.keys() == {"attention", "waits", "families"}
    assert found["attention"]["wrong"] == {}
    assert not any("plain" in kernel for kernel in found["attention"]["kernels"])
    assert found["families"]["raised"] == {} and found["families"]["within_1e_4"] == found["families"]["cases"] > 40
    waits = found["waits"]["waits_per_call"]
    assert {mode: count for mode, count in waits.items() if mode != "quality" and count > MOST} == {}
    assert waits["Step Reuse, a step"] > 0
    assert {"2bit, all_gather", "ratio", "quality", "displaced"} < waits.keys()
    assert len(done.stdout.splitlines()) == len(found)


def test_checks_run_without_a_card_too(tmp_path):
    done = check(tmp_path, "--device", "cpu", "--only", "large")
    found = found_in(tmp_path)
    assert done.returncode == 0
    assert found["large"]["ways"]["all_gather 2"]["decibels"] > 100
    assert 20 < found["large"]["ways"]["all_gather 2, 2bit"]["decibels"] < 80


def test_a_check_that_fails_says_so_and_keeps_what_it_had_found(tmp_path):
    done = check(tmp_path, "--device", "cpu", "--only", "environment")
    found = found_in(tmp_path)
    assert done.returncode == 1
    assert found["environment"]["error"] == "ended with code 1"
    assert found["environment"]["torch"]
    assert "==== environment" in (tmp_path / "logs.txt").read_text(encoding="utf-8")
    said = (tmp_path / "gpu.json").read_text(encoding="utf-8") + done.stdout
    for place in (os.environ["COMFYUI_PATH"], str(CHECK.parents[2]), tempfile.gettempdir(), str(Path.home())):
        assert place not in said


def test_what_is_missing_is_said_in_a_sentence(tmp_path):
    assert "There is no ComfyUI in" in check(tmp_path, "--comfyui", str(tmp_path)).stderr
    assert "torch finds no CUDA card here" in check(tmp_path, "--only", "nccl", CUDA_VISIBLE_DEVICES="").stderr
    assert (
        "soup: no check here; there are attention, waits, families."
        in check(tmp_path, "--simulated", "--only", "soup").stderr
    )
