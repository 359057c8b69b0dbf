"""The pack on a ComfyUI that was rewritten so that two families no longer fit: what test_unfit.py says of it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rewriting import IN_A_TUPLE, RENAMED, rewrite_folder

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    """The folder of such a ComfyUI."""
    spec = importlib.util.spec_from_file_location("conventions", Path(__file__).with_name("conventions.py"))
    conventions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conventions)
    folder = tmp_path_factory.mktemp("rewritten") / "ComfyUI"
    conventions.copy(Path(os.environ["COMFYUI_PATH"]), folder)
    rewrite_folder(folder, RENAMED, IN_A_TUPLE)
    return folder


@pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")
@pytest.mark.timeout(600)
def test_what_no_longer_fits_is_refused_by_name_and_the_rest_works(rewritten):
    command = [sys.executable, "-m", "pytest", "-q", "newer/test_unfit.py"]
    environ = os.environ | {"COMFYUI_PATH": str(rewritten)}
    done = subprocess.run(command, cwd=TESTS, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
