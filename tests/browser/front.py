"""A real browser with ComfyUI's own front end in it, and the words to tell it what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

from compact_parallel.workflows.comfy_server import ComfyServer
from needs import BROWSERS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class BrowserError(AssertionError):
    """The browser could not do what it was told."""


class Browser:
    """A page of a Chromium that node drives (driver.mjs)."""

    def __init__(self) -> None:
        chromium = next(filter(None, map(shutil.which, BROWSERS)))
        command = [shutil.which("node"), str(HERE / "driver.mjs"), chromium]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, command: str, **given):
        """One command of driver.mjs; returns its result. Raises BrowserError."""
        self._process.stdin.write(json.dumps({"command": command, **given}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BrowserError("The browser ended.")
        answer = json.loads(line)
        if "error" in answer:
            raise BrowserError(f"{command} {given}: {answer['error']}")
        return answer["result"]

    def evaluate(self, code: str, given=None):
        """The value of a JavaScript expression in the page, in which `given` is at hand."""
        return self.tell("evaluate", code=code, given=given)

    def wait(self, code: str):
        """Waits until a JavaScript expression is true; returns its value."""
        return self.tell("wait", code=code)

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return self.tell("text", selector=selector)

    def click(self, selector: str) -> None:
        """Click an element once it can be clicked."""
        self.tell("click", selector=selector)

    def close(self) -> None:
        """End the browser."""
        self._process.stdin.close()
        self._process.wait(timeout=30)


def workflow(**changes) -> dict:
    """workflows/api/tiny.json, made small; `changes` are {"Title.input": value} given as Title__input."""
    made = json.loads((ROOT / "workflows" / "api" / "tiny.json").read_text())
    nodes = {node["_meta"]["title"]: node for node in made.values()}
    nodes["Empty Latent"]["inputs"].update(width=256, height=240)
    for key, value in {"KSampler__steps": 4, **changes}.items():
        title, _, name = key.partition("__")
        nodes[title.replace("_", " ")]["inputs"][name] = value
    return made


class Front:
    """ComfyUI's front end in the browser, on a running server."""

    def __init__(self, server: ComfyServer, browser: Browser, artifacts: Path) -> None:
        self.server = server
        self.browser = browser
        self._artifacts = artifacts
        self._seed = 5000

    def open(self) -> None:
        """Load the page, and wait until it is ready."""
        self.browser.tell("open", url=self.server.url)
        self.ready()

    def ready(self) -> None:
        """Wait until the page has loaded ComfyUI and every node."""
        self.browser.wait(
            "window.app?.graph && Object.keys(window.LiteGraph.registered_node_types).length > 100"
            " && window.app.extensionManager.getSidebarTabs().some((tab) => tab.id === 'compact-parallel')"
        )

    def show_panel(self) -> None:
        """Open our tab of the sidebar."""
        if not self.browser.evaluate("Boolean(document.querySelector('.parallel-panel'))"):
            self.browser.click(".compact-parallel-tab-button")
        self.browser.wait("document.querySelector('.parallel-panel')")

    def queue(self, **changes) -> None:
        """Load the tiny workflow as a person does, with a seed of its own, and queue it."""
        self._seed += 1
        made = workflow(KSampler__seed=self._seed, **changes)
        self.browser.evaluate("window.app.loadApiJson(given, 'tiny.json')", made)
        self.browser.wait("window.app.graph.nodes.some((node) => node.type === 'CompactParallelModel')")
        self.browser.evaluate("window.app.queuePrompt(0, 1)")

    def pool(self) -> dict:
        """The one pool, from the route."""
        (pool,) = self.server.get("/parallel/pools")
        return pool

    def screenshot(self, name: str, selector: str | None = None) -> None:
        """A picture of the page, or of one element."""
        self.browser.tell("screenshot", path=str(self._artifacts / f"{name}.png"), selector=selector)

    def post(self, path: str, body: dict | None = None) -> None:
        """POST JSON to the server."""
        data = json.dumps(body or {}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(self.server.url + path, data, headers), timeout=60).close()
