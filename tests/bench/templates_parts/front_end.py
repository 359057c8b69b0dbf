"""Converts a saved workflow into a prompt with ComfyUI's own front end, in a browser.

Import it with tests/browser on the path.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compact_parallel.workflows.comfy_server import ComfyServer
from front import ROOT, Browser, Front

_CONVERT = """(async () => {
    const app = window.app;
    await app.loadGraphData(given, true, false, null, { silentAssetErrors: true });
    const prompt = (await app.graphToPrompt()).output;
    const workflows = app.extensionManager.workflow;
    await workflows.closeWorkflow(workflows.activeWorkflow);
    return prompt;
})()"""
_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
}


class FrontEnd:
    """The opened front end of a running server."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.object_info: dict[str, Any] = front.server.get("/object_info")
        """The server's description of every node, API nodes included."""

    def prompt(self, graph: dict[str, Any]) -> dict[str, Any]:
        """The prompt that the front end would queue for this workflow: {id: {"class_type": ..., "inputs": ...}}."""
        return self._front.browser.evaluate(_CONVERT, graph)


@contextmanager
def opened() -> Iterator[FrontEnd]:
    """The front end of a ComfyUI with this pack and API nodes, in a browser; `needs.missing()` says what it needs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        comfyui = Path(os.environ["COMFYUI_PATH"])
        with ComfyServer(sys.executable, comfyui, ROOT, folder, api_nodes=True) as server:
            browser = Browser()
            try:
                front = Front(server, browser, folder)
                for key, value in _SETTINGS.items():
                    front.post(f"/api/settings/{key}", value)
                front.open()
                yield FrontEnd(front)
            finally:
                browser.close()
