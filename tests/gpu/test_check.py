"""tests/gpu/check.py on a machine without a GPU: checks that need no card pass, others report their failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).resolve().parent / "check.py"


def run(out: Path, *names: str) -> tuple[int, dict[str, dict]]:
    command = [sys.executable, str(CHECK), "--out", str(out), "--device", "cpu", "--only", *names]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=200).returncode
    return code, {found["check"]: found for found in json.loads((out / "gpu.json").read_text())}


def test_what_needs_no_card_runs_without_one(tmp_path):
    code, found = run(tmp_path, "attention", "large")
    assert code == 0
    assert found["attention"]["wrong"] == {}
    assert found["large"]["ways"]["all_gather 2"]["decibels"] > 100
    assert 20 < found["large"]["ways"]["all_gather 2, 2bit"]["decibels"] < 80


def test_a_check_that_fails_says_so_and_keeps_what_it_had_found(tmp_path):
    code, found = run(tmp_path, "environment")
    assert code == 1
    assert found["environment"]["error"] == "ended with code 1"
    assert found["environment"]["torch"]
    assert "==== environment" in (tmp_path / "logs.txt").read_text()
