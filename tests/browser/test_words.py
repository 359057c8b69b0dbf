"""The front end in another language: nodes, tooltips, settings and the tab."""

from __future__ import annotations

import json

import pytest
from compact_parallel.workflows.comfy_server import PACK_NODE
from live_server import ROOT

pytestmark = pytest.mark.server


def words(language: str, name: str) -> dict:
    return json.loads((ROOT / "web" / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(params=["zh", "ja"])
def speaking(request, front):
    """The front end, opened again in a language; English afterwards."""
    front.post("/api/settings", {"Comfy.Locale": request.param})
    front.open()
    yield request.param, front
    front.post("/api/settings", {"Comfy.Locale": "en"})
    front.open()


def test_nodes_settings_and_tab_are_translated(speaking):
    language, front = speaking
    nodes, panel = words(language, "nodeDefs"), words(language, "main")["compactParallel"]
    graph = json.loads((ROOT / "workflows" / "tiny.json").read_text(encoding="utf-8"))
    front.browser.wait("window.app.graph.nodes.length > 0")  # ComfyUI brings back what was open before
    front.browser.evaluate("window.app.loadGraphData(given)", graph)
    front.browser.wait(f"window.app.graph.nodes.some((node) => node.type === '{PACK_NODE}')")
    front.browser.wait(
        f"window.LiteGraph.registered_node_types.{PACK_NODE}.title === {json.dumps(nodes[PACK_NODE]['display_name'])}"
    )
    labels = front.browser.evaluate(
        "Object.fromEntries(window.app.graph.nodes.filter((node) => node.type.startsWith('CompactParallel'))"
        ".map((node) => [node.type, Object.fromEntries((node.widgets ?? []).map((one) => [one.name, one.label]))]))"
    )
    for kind, shown in labels.items():
        for name, label in shown.items():
            if not name.startswith("$$"):
                assert label == nodes[kind]["inputs"][name.replace(".", "_")]["name"], (kind, name)
    assert "mode.codec" in labels["CompactParallelCompression"]
    front.browser.evaluate("(window.app.canvas.ds.scale = 1, window.app.canvas.ds.offset = [-950, 80], 0)")
    front.show_panel()
    run_of_words(front, panel)
    text = front.browser.text(".parallel-panel")
    for english in ("Parallel", "Recent runs", "Start", "Restart", "Stop", "Worker", "State", "Memory", "Default pool"):
        assert panel[english] in text, english
    front.screenshot(f"words_{language}")
    front.browser.evaluate("window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    front.browser.click(f"[role=dialog] :text-is('{words(language, 'main')['settingsCategories']['Parallel']}')")
    for setting in words(language, "settings").values():
        front.browser.wait(f"document.body.innerText.includes({json.dumps(setting['name'])})")
    front.screenshot(f"words_settings_{language}")
    front.browser.tell("press", key="Escape")


def run_of_words(front, panel: dict[str, str]) -> None:
    """A run tells about itself in the language: in the tab while it goes on and at its end, and on the node."""
    line = "document.querySelector('.parallel-line')?.textContent"
    note = (
        "(window.app.graph.nodes.find((node) => node.type === 'CompactParallelModel')"
        ".widgets.find((widget) => widget.name === '$$node-text-preview')?.value ?? '')"
    )
    front.browser.evaluate(
        "window.app.graph.nodes.filter((node) => node.type === 'KSampler').forEach((node) =>"
        " node.widgets.forEach((widget) => { if (widget.name === 'steps') widget.value = 12;"
        " if (widget.name === 'seed') widget.value = Math.floor(Math.random() * 1e9); }))"
    )
    front.browser.evaluate("window.app.queuePrompt(0, 1)")
    third = panel["Step {step} of {total}"].replace("{step}", "3").replace("{total}", "12")
    front.browser.wait(f"{line}?.startsWith({json.dumps(third)})")
    result = panel["{count} workers"].replace("{count}", "2")
    front.browser.wait(f"{line}.startsWith({json.dumps(result)}) && {note} === {line}")
    front.browser.wait(f"document.querySelector('.parallel-result')?.textContent === {line}")
