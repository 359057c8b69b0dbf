"""Runs tests on a ComfyUI that differs from the installed one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def conventions():
    """The module that makes such a ComfyUI."""
    spec = importlib.util.spec_from_file_location("conventions", Path(__file__).with_name("conventions.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def passed_on():
    """Runs tests on the ComfyUI in a folder; returns how many have passed, and fails unless all have."""

    def run(comfyui: Path, *tests: str) -> int:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        environ = os.environ | {"COMFYUI_PATH": str(comfyui)}
        done = subprocess.run(command, cwd=TESTS, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed and "skipped" not in done.stdout
        return int(passed[1])

    return run
