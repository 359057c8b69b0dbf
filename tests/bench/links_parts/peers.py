"""Installs the two compared libraries, diffusers and yunchang, in a folder beside the tests' environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bench

PACKAGES = ("diffusers==0.42.1", "yunchang==0.6.4", "importlib_metadata==8.7.0")
FOLDER = bench.ROOT / ".cache" / "peers"


def folder() -> Path:
    """The folder of the libraries, after installing them if they are missing. Their dependencies are left out, because
    ComfyUI has the same."""
    done = FOLDER / "installed"
    if not (done.is_file() and done.read_text() == " ".join(PACKAGES)):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(FOLDER)]
        if subprocess.run([*command, *PACKAGES], check=False).returncode:
            sys.exit(f"diffusers and yunchang could not be installed; run: {' '.join([*command, *PACKAGES])}")
        done.write_text(" ".join(PACKAGES))
    return FOLDER
