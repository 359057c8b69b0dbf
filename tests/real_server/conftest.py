"""One real ComfyUI server for the tests of this folder, and the words to talk to it."""

from __future__ import annotations

import live_server
import pytest


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A running server with this pack installed."""
    with live_server.running(tmp_path_factory.mktemp("server")) as talk:
        yield talk


@pytest.fixture
def make():
    """`live_server.workflow`."""
    return live_server.workflow


@pytest.fixture
def find():
    """`live_server.node`."""
    return live_server.node
