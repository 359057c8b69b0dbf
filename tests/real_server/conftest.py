"""The words to talk to a real ComfyUI server."""

from __future__ import annotations

import live_server
import pytest


@pytest.fixture
def make():
    """`live_server.workflow`."""
    return live_server.workflow


@pytest.fixture
def find():
    """`live_server.node`."""
    return live_server.node
