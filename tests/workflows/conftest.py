"""One real ComfyUI server for the tests of this folder, and the descriptions of the shipped workflows."""

from __future__ import annotations

import sys
from pathlib import Path

import live_server
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def talk(tmp_path_factory):
    """A running server with this pack installed."""
    with live_server.running(tmp_path_factory.mktemp("workflows_server")) as talk:
        yield talk


@pytest.fixture(scope="session")
def object_info(talk):
    """What the server says of every node."""
    return talk.server.get("/object_info")
