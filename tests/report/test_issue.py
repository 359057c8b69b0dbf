"""The text for an issue: versions and devices are in it, the machine's paths are not."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from compact_parallel.runtime.report.issue import MOST_VALUES, PATH, issue_text

ABOUT = {"versions": {"torch": "2.11.0"}, "cards": [{"name": "A card", "bytes": 5}]}


def read(text: str) -> dict:
    assert text.startswith("```json\n") and text.endswith("\n```\n")
    return json.loads(text.removeprefix("```json\n").removesuffix("```\n"))


def test_report_and_versions_are_in_it():
    told = read(issue_text({"calls": 4, "bits": [16.0, 2.0], "warnings": ["A patch runs whole."]}, ABOUT))
    assert told == ABOUT | {"report": {"calls": 4, "bits": [16.0, 2.0], "warnings": ["A patch runs whole."]}}
    assert read(issue_text(None, ABOUT)) == ABOUT | {"report": None}


@pytest.mark.parametrize(
    "path",
    [
        "/home/ann/ComfyUI/models/secret.safetensors",
        "/mnt/big/models/flux.safetensors",
        "~/ComfyUI/custom_nodes/pack",
        r"C:\Users\Ann\ComfyUI\models\flux.safetensors",
        "D:/ComfyUI/output",
        r"\\server\share\models",
        "file:///mnt/big/rendezvous-0",
        str(Path.home() / "x"),
        str(Path(tempfile.gettempdir()) / "compact-parallel-abc" / "listing.json"),
    ],
)
def test_no_path_is_in_it(path):
    sentence = f"{path}, a tensor, was removed ({path}); see '{path}'."
    (told,) = read(issue_text({"warnings": [sentence]}, ABOUT))["report"]["warnings"]
    assert told == f"{PATH}, a tensor, was removed ({PATH}); see '{PATH}'."


def test_a_known_folder_goes_even_with_a_space_in_its_name():
    said = "The folder /My Drive/Comfy UI/models/x.bin is gone."
    (kept,) = read(issue_text({"warnings": [said]}, ABOUT))["report"]["warnings"]
    (told,) = read(issue_text({"warnings": [said]}, ABOUT, ["/My Drive/Comfy UI"]))["report"]["warnings"]
    assert told == f"The folder {PATH} is gone." and kept != told


@pytest.mark.parametrize("text", ["2.4 MB/s", "and/or", "cuda:0,cuda:1", "1/2 of 3/4", "fit / slow: yes", "Step 3/12"])
def test_what_is_no_path_stays(text):
    assert read(issue_text({"warnings": [text]}, ABOUT))["report"]["warnings"] == [text]


def test_long_lists_are_cut():
    told = read(issue_text({"bits": list(range(1000))}, ABOUT))["report"]["bits"]
    assert told == [*range(MOST_VALUES), f"and {1000 - MOST_VALUES} more"]
