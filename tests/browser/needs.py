"""What the browser tests need, a Chromium and a driver for it, and how to get it. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WANTED = "COMPACT_PARALLEL_BROWSER"
"""Environment variable: if it is 1, tests/run.py installs what is missing, and no browser test may be skipped."""


def missing() -> str:
    """Says what this machine lacks, with the way to get it; "" if nothing."""
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium: apt-get install chromium"
    if shutil.which("node") is None:
        return "no node: apt-get install nodejs npm"
    if not (HERE / "node_modules" / "playwright-core").is_dir():
        return "no playwright-core: npm install --prefix tests/browser"
    return ""


def wanted() -> bool:
    """Whether the browser tests must run."""
    return os.environ.get(WANTED) == "1"


def get() -> None:
    """Installs what is missing, with apt-get and npm. What could not be installed, the browser tests tell."""
    packages = [] if any(map(shutil.which, BROWSERS)) else ["chromium", "fonts-liberation"]
    packages += [package for package, tool in (("nodejs", "node"), ("npm", "npm")) if shutil.which(tool) is None]
    if packages and shutil.which("apt-get"):
        print(f"Installing {', '.join(packages)}", flush=True)
        environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", *packages]):
            subprocess.run(["apt-get", *command], env=environ, stdout=subprocess.DEVNULL, check=False)
    if not (HERE / "node_modules" / "playwright-core").is_dir() and (npm := shutil.which("npm")):
        print("Installing the driver of the browser", flush=True)
        command = [npm, "install", "--prefix", str(HERE), "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, check=False)
