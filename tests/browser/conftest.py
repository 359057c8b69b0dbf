"""A real ComfyUI server and a real browser for the tests of this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from compact_parallel.workflows.comfy_server import ComfyServer

sys.path.insert(0, str(Path(__file__).resolve().parent))

from front import ROOT, Browser, Front
from needs import missing, wanted


@pytest.fixture(scope="session")
def front(tmp_path_factory):
    """The front end, opened. Screenshots go to $BROWSER_ARTIFACTS, else to a folder that pytest keeps for a while."""
    if reason := missing():
        pytest.fail(reason) if wanted() else pytest.skip(reason)
    artifacts = Path(os.environ.get("BROWSER_ARTIFACTS") or tmp_path_factory.mktemp("artifacts"))
    artifacts.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("server")
    arguments = ("--cpu", "--preview-method", "latent2rgb")
    server = ComfyServer(sys.executable, Path(os.environ["COMFYUI_PATH"]), ROOT, folder, arguments=arguments)
    with server:
        browser = Browser()
        try:
            front = Front(server, browser, artifacts)
            front.post("/api/settings", {"Comfy.TutorialCompleted": True})  # else the template browser opens first
            front.open()
            yield front
        finally:
            browser.close()
