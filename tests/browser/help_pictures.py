"""Draws every node as ComfyUI's browser shows it, for the help pages: web/docs/<node>.webp. And the
tiny workflow after a run, with the tab Parallel open, for the README: web/docs/screen.webp.

COMFYUI_PATH=... python3 tests/browser/help_pictures.py
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).resolve().parent
SHOWN = {
    "CompactParallelModel": "",
    "CompactParallelPool": "",
    "CompactParallelStrategy": "manual",
    "CompactParallelCompression": "codec",
    "CompactParallelStepReuse": "look_ahead",
    "CompactParallelPipeline": "xdit",
    "CompactParallelPipelineSample": "",
    "CompactParallelReport": "",
    "CompactParallelCompare": "",
    "CompactParallelDemoPrompt": "",
}
"""Every node, and the mode or engine it is shown with."""
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.NodeBadge.NodeIdBadgeMode": "None",
}
SCALE, MARGIN, TITLE = 1.4, 14, 30
DRAW = """(async () => {
    const { graph, canvas } = window.app;
    graph.clear();
    const node = window.LiteGraph.createNode(given.kind);
    graph.add(node);
    const choice = ['mode', 'engine'];
    if (given.mode) node.widgets.find((widget) => choice.includes(widget.name)).value = given.mode;
    node.setSize([Math.max(node.size[0], 300), node.computeSize()[1]]);
    node.pos = [0, 0];
    canvas.ds.scale = given.scale;
    canvas.ds.offset = [300, 150];
    canvas.deselectAll?.();
    canvas.setDirty(true, true);
    await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
    const { left, top } = canvas.canvas.getBoundingClientRect();
    return [left + 300 * given.scale, top + 150 * given.scale, node.size[0] * given.scale, node.size[1] * given.scale];
})()"""
LAID_OUT = {
    1: (0, 0),  # Load Diffusion Model
    2: (0, 150),  # Load VAE
    5: (0, 280),  # Empty Latent
    13: (370, 0),  # Parallel Model
    3: (370, 290),  # the prompt
    4: (370, 510),  # the negative prompt
    6: (740, 0),  # KSampler
    7: (1110, 0),  # VAE Decode
    8: (1110, 110),  # Save Image
}
"""The nodes of tiny_exact.json that the README shows, and where: what is optional is left out."""
SHOW = """(() => {
    const { graph, canvas } = window.app;
    graph._groups.slice().forEach((group) => graph.remove(group));
    for (const node of graph.nodes.slice()) {
        if (given.places[node.id]) node.pos = given.places[node.id];
        else graph.remove(node);
    }
    graph.getNodeById(6).connect(0, graph.getNodeById(7), 0);
    graph.getNodeById(13).color = '#2f5f3a';
    canvas.ds.scale = given.scale;
    canvas.ds.offset = given.offset;
    canvas.setDirty(true, true);
})()"""
"""Leaves these nodes and no groups, with the sampler's latent straight into VAE Decode."""
RAN = "document.querySelectorAll('.parallel-runs > li').length > 0"
SHOWN_IMAGE = "window.app.graph.getNodeById(8).imgs?.[0]?.complete"
SCREEN = (0, 40, 1440, 640)
"""Without the tabs above and the empty canvas below."""


def crop(png: bytes, box: list[float]) -> Image.Image:
    """The node with its title and a margin."""
    left, top, width, height = box
    top, height = top - TITLE * SCALE, height + TITLE * SCALE
    edges = (left - MARGIN, top - MARGIN, left + width + MARGIN, top + height + MARGIN)
    return Image.open(io.BytesIO(png)).convert("RGB").crop(tuple(round(edge) for edge in edges))


def draw(front: Any, folder: Path, docs: Path) -> None:
    """Draw every node in the opened front end."""
    front.browser.wait("window.app.graph.nodes.length > 0")  # ComfyUI's own first workflow comes late
    for kind, mode in SHOWN.items():
        box = front.browser.evaluate(DRAW, {"kind": kind, "mode": mode, "scale": SCALE})
        front.screenshot(kind)
        picture = crop((folder / f"{kind}.png").read_bytes(), box)
        picture.save(docs / f"{kind}.webp", quality=85, method=6)
        print(kind, picture.size)


def draw_screen(front: Any, folder: Path, docs: Path) -> None:
    """Run the tiny workflow with nothing plugged into Parallel Model, and draw the screen behind it."""
    workflow = json.loads((docs.parents[1] / "workflows" / "tiny_exact.json").read_text(encoding="utf-8"))
    front.show_panel()
    front.browser.evaluate("window.app.loadGraphData(given)", workflow)
    front.browser.evaluate(SHOW, {"places": LAID_OUT, "scale": 0.66, "offset": [620, 230]})
    front.browser.evaluate("window.app.queuePrompt(0, 1)")
    front.browser.wait(RAN)
    front.browser.wait(SHOWN_IMAGE)
    front.screenshot("screen")
    picture = Image.open(folder / "screen.png").convert("RGB").crop(SCREEN)
    picture.save(docs / "screen.webp", quality=85, method=6)
    print("screen", picture.size)


def main() -> None:
    """The command."""
    sys.path.insert(0, str(HERE.parent))
    importlib.import_module("conftest")  # gives the pack its name
    sys.path.insert(0, str(HERE))
    front = importlib.import_module("front")
    with tempfile.TemporaryDirectory() as folder:
        server = front.ComfyServer(sys.executable, Path(os.environ["COMFYUI_PATH"]), front.ROOT, Path(folder))
        with server:
            browser = front.Browser()
            page = front.Front(server, browser, Path(folder))
            page.post("/api/settings", SETTINGS)
            page.open()
            draw(page, Path(folder), front.ROOT / "web" / "docs")
            draw_screen(page, Path(folder), front.ROOT / "web" / "docs")
            browser.close()


if __name__ == "__main__":
    main()
