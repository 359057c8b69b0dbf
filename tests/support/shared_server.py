"""One real ComfyUI server for all tests that any server serves: a plugin of pytest with the fixture `talk`."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="session")
def talk(tmp_path_factory):
    """A running server with this pack, and another one that has translations, too."""
    import live_server

    folder = tmp_path_factory.mktemp("server")
    other = folder / "custom_nodes" / "other"
    (other / "locales" / "zh").mkdir(parents=True)
    (other / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    words = {"nodeDefs": {"Other": {"display_name": "其他"}}, "g": {"x": "y"}}
    (other / "locales" / "zh" / "main.json").write_text(json.dumps(words))
    with live_server.running(folder) as talk:
        yield talk
