"""The descriptions of the shared server's nodes, and ComfyUI's front end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.extend((str(HERE.parent / "bench"), str(HERE.parent / "browser")))


@pytest.fixture(scope="session")
def object_info(talk):
    """What the server says of every node."""
    return talk.server.get("/object_info")


@pytest.fixture(scope="session")
def front_end():
    """ComfyUI's front end, which makes prompts of templates."""
    from needs import missing, wanted
    from templates_parts.front_end import opened

    if reason := missing():
        pytest.fail(reason) if wanted() else pytest.skip(reason)
    with opened() as front_end:
        yield front_end
