"""Workflows in ComfyUI's own front end: from the template browser to the result, old ones, and wrong inputs."""

from __future__ import annotations

import copy
import json

import pytest
from compact_parallel.workflows.comfy_server import PACK_NAME
from live_server import ROOT

pytestmark = pytest.mark.server
TINY = ("tiny_stock", "tiny_exact", "tiny", "tiny_step_reuse", "tiny_comparison", "tiny_pipeline")
PIPELINES = sorted(path.stem for path in (ROOT / "workflows").glob("pipeline_*.json"))
STEPS = 9
"""Step Reuse needs eight."""
SMALLER = """(() => {
    const set = (node, name, value) => (node.widgets.find((widget) => widget.name === name).value = value);
    for (const node of window.app.graph.nodes) {
        const sized = ['EmptySD3LatentImage', 'CompactParallelPipelineSample'].includes(node.type);
        const sampling = ['KSampler', 'CompactParallelPipelineSample'].includes(node.type);
        if (sized) { set(node, 'width', 256); set(node, 'height', 240); }
        if (sampling) { set(node, 'steps', given.steps); set(node, 'seed', given.seed); }
        if (node.type === 'PrimitiveInt') set(node, 'value', given.seed);
    }
})()"""
LISTEN = """(() => {
    window.ended = '';
    const api = window.app.api;
    api.addEventListener('execution_success', () => (window.ended = 'success'), { once: true });
    api.addEventListener('execution_error', (event) => (window.ended = event.detail.exception_message), { once: true });
})()"""
LINE = (
    "window.app.graph.nodes.filter((node) => node.type === 'CompactParallelModel')"
    ".map((node) => node.widgets.find((widget) => widget.name === '$$node-text-preview')?.value)"
)
SAVED = ROOT / "tests" / "workflows" / "saved_0_1_0"
PICTURES = """Promise.all(window.app.graph.nodes.filter((node) => node.type === 'SaveImage').map(async (node) => {
    const [image] = window.app.nodeOutputs[node.id].images;
    const query = new URLSearchParams(image);
    const shown = await createImageBitmap(await (await fetch(`/view?${query}`)).blob());
    return [node.title, shown.width, shown.height];
}))"""
ERRORS_OPEN = "document.body.innerText.includes('A node rejected one or more input values.')"
DETAILS = "[...document.querySelectorAll('button')].some((button) => button.textContent.trim() === 'View details')"
SEEDS = iter(range(9000, 9999))


@pytest.fixture
def page(front):
    """The front end, with the whole graph in view."""
    yield front
    front.browser.tell("press", key="Escape")
    front.browser.evaluate("window.app.extensionManager.toast.removeAll?.()")


def saved(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text())


def open_template(front, name: str) -> None:
    front.browser.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    front.browser.click(f"[role=dialog] :text-is('{PACK_NAME}')")
    front.browser.click(f"[data-testid='template-workflow-{name}']")
    types = ",".join(sorted(node["type"] for node in saved(name)["nodes"]))
    front.browser.wait(f"window.app.graph.nodes.map((node) => node.type).sort().join() === {types!r}")


def run(front, steps: int = 4) -> None:
    """Queue what is loaded, made small, and wait for its end."""
    front.browser.evaluate(SMALLER, {"steps": steps, "seed": next(SEEDS)})
    front.browser.evaluate(LISTEN)
    front.browser.evaluate("window.app.queuePrompt(0, 1)")
    assert front.browser.wait("window.ended") == "success"


def load(front, graph: dict) -> None:
    front.browser.evaluate("window.app.loadGraphData(given)", graph)


def asked(front) -> dict:
    """The API form of what is loaded, by title."""
    output = front.browser.evaluate("window.app.graphToPrompt().then((prompt) => prompt.output)")
    return {node["_meta"]["title"]: node["inputs"] for node in output.values()}


@pytest.mark.parametrize("name", TINY)
def test_a_template_runs_to_its_pictures(page, name):
    open_template(page, name)
    run(page, STEPS)
    pictures = page.browser.evaluate(PICTURES)
    assert {(width, height) for title, width, height in pictures if title != "Save Plot"} == {(256, 240)}
    page.browser.evaluate("window.app.canvas.fitViewToSelectionAnimated?.()")
    page.screenshot(f"template_{name}")
    if name == "tiny_stock":
        return
    report = page.server.get("/parallel/runs/latest")
    assert report["steps"] == STEPS
    if name == "tiny_pipeline":
        return
    page.browser.wait(f"{LINE}.includes({json.dumps(report['result'])})")
    assert (report["rounds"] < report["calls"]) == (name == "tiny_step_reuse")


def test_parallel_model_alone_between_loader_and_sampler(page):
    """Everything else default: two workers on the CPU, and the result is exact."""
    open_template(page, "tiny_stock")
    page.browser.evaluate("""(() => {
        const graph = window.app.graph;
        const find = (type) => graph.nodes.find((node) => node.type === type);
        const node = window.LiteGraph.createNode('CompactParallelModel');
        graph.add(node);
        find('UNETLoader').connect(0, node, 0);
        node.connect(0, find('KSampler'), 0);
    })()""")
    assert set(asked(page)["Parallel Model"]) == {"model", "on_unsupported", "self_check"}
    run(page)
    run(page)  # now that the node shows the line of the first run
    report = page.server.get("/parallel/runs/latest")
    assert report["devices"] == ["cpu", "cpu"] and report["fallbacks"] == []


def test_a_workflow_saved_before_an_input_was_added_gets_its_default(page):
    """Today's last inputs, left out of the saved values as if they had not existed then."""
    graph = saved("tiny")
    nodes = {node.get("title", node["type"]): node for node in graph["nodes"]}
    for title, lost in (("CompactParallelPool", 2), ("CompactParallelCompression", 1), ("CompactParallelModel", 2)):
        del nodes[title]["widgets_values"][-lost:]
        del nodes[title]["inputs"][-lost:]
    load(page, graph)
    now = asked(page)
    assert (now["Parallel Worker Pool"]["name"], now["Parallel Worker Pool"]["start_timeout_s"]) == ("", 120)
    assert now["Residual Compression"]["mode.codec"] == "2bit" and now["Residual Compression"]["mode.rank"] == 16
    assert now["Parallel Model"]["on_unsupported"] == "error" and now["Parallel Model"]["self_check"] is False
    assert now["Parallel Worker Pool"]["devices"] == "cpu,cpu"
    run(page)


@pytest.mark.parametrize("name", sorted(path.stem for path in SAVED.glob("*.json")))
def test_a_workflow_of_0_1_0_opens_as_it_was_saved(page, name):
    """In both forms it has the same values, and nothing is told to be lost."""
    load(page, json.loads((SAVED / f"{name}.json").read_text()))
    opened = page.browser.evaluate("window.app.graphToPrompt().then((prompt) => prompt.output)")
    asked = json.loads((SAVED / "api" / f"{name}.json").read_text())
    values = {
        number: {key: opened[number]["inputs"].get(key) for key in one["inputs"]} for number, one in asked.items()
    }
    assert values == {number: one["inputs"] for number, one in asked.items()}
    assert "does not exist" not in page.browser.text("body") and "any more" not in page.browser.text("body")


@pytest.mark.parametrize("name", PIPELINES)
def test_a_template_of_a_pipeline_opens_as_it_was_written(page, name):
    """Its folder is kept where it is not there yet, so that it is chosen once it is."""
    load(page, saved(name))
    opened = page.browser.evaluate("window.app.graphToPrompt().then((prompt) => prompt.output)")
    asked = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    values = {
        number: {key: opened[number]["inputs"].get(key) for key in one["inputs"]} for number, one in asked.items()
    }
    assert values == {number: one["inputs"] for number, one in asked.items()}
    (folder,) = [one["inputs"]["folder"] for one in asked.values() if "folder" in one["inputs"]]
    told = f"folder is {folder}, which is not in models/diffusers (yet)."
    page.browser.wait(f"document.body.innerText.includes({told!r})")
    page.browser.evaluate("window.app.canvas.fitViewToSelectionAnimated?.()")
    page.screenshot(f"template_{name}")


def test_a_choice_and_an_input_that_are_gone_are_told_when_the_workflow_is_opened(page):
    graph = saved("tiny")
    load(page, copy.deepcopy(graph))
    page.browser.wait("window.app.graph.nodes.length > 5")
    assert "does not exist" not in page.browser.text("body")  # negative control
    nodes = {node["type"]: node for node in graph["nodes"]}
    nodes["CompactParallelCompression"]["widgets_values"][5] = "qualty"
    nodes["CompactParallelPool"]["inputs"][-1] = {"name": "timeout", "type": "FLOAT", "widget": {"name": "timeout"}}
    load(page, graph)
    for sentence in (
        "mode is qualty, which does not exist; choose one of auto, off, ratio, quality, codec.",
        "There is no input timeout any more; what it was set to (120) is lost, check the node.",
    ):
        page.browser.wait(f"document.body.innerText.includes({sentence!r})")
    page.screenshot("old_workflow")


@pytest.mark.parametrize(
    ("name", "node", "widget", "value", "sentence"),
    [
        ("tiny", "CompactParallelPool", "devices", "gpu0", "'gpu0' is not a device; write auto, cpu, cuda:0 or cpu*4"),
        ("tiny", "CompactParallelPool", "devices", "cpu*3", "The degrees multiply to 2 ("),
        ("tiny", "CompactParallelCompression", "mode", "qualty", "mode is 'qualty'; choose one of auto, off, ratio"),
    ],
)
def test_a_wrong_input_is_explained_on_the_node_before_anything_starts(page, name, node, widget, value, sentence):
    load(page, saved(name))
    runs = page.server.get("/parallel/runs")
    page.browser.evaluate(
        "window.app.graph.nodes.find((node) => node.type === given[0]).widgets"
        ".find((widget) => widget.name === given[1]).value = given[2]",
        [node, widget, value],
    )
    page.browser.evaluate("window.app.queuePrompt(0, 1)")
    if page.browser.wait(f"{ERRORS_OPEN} ? 'open' : {DETAILS} && 'closed'") == "closed":
        page.browser.click("button:text-is('View details')")
        page.browser.wait(ERRORS_OPEN)
    page.browser.click("button[aria-label^='Info for']")
    page.browser.wait(f"document.body.innerText.includes({json.dumps(sentence)})")
    (marked,) = page.browser.evaluate("Object.values(window.app.lastNodeErrors).map((told) => told.class_type)")
    assert marked == ("CompactParallelModel" if value == "cpu*3" else node)
    page.screenshot(f"refused_{widget}_{value.replace('*', 'x')}")
    assert page.server.get("/parallel/runs") == runs and not page.server.get("/queue")["queue_running"]
