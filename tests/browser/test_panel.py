"""The tab "Parallel" in ComfyUI's own front end, with real runs behind it. In the order in which a person meets it."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.server
NOTE = (
    "(window.app.graph.nodes.find((node) => node.type === 'CompactParallelModel')"
    "?.widgets?.find((widget) => widget.name === '$$node-text-preview')?.value ?? '')"
)
LINE = "document.querySelector('.parallel-line')?.textContent"
STATES = "[...document.querySelectorAll('.parallel-workers tbody td:nth-child(2)')].map((cell) => cell.textContent)"
RUNS = "document.querySelectorAll('.parallel-runs > li').length"
FIGURES = (
    "Object.fromEntries([...document.querySelectorAll('.parallel-pool .parallel-figures > div')]"
    ".map((row) => [row.children[0].textContent, row.children[1].textContent]))"
)
WATCH = f"""(() => {{
    window.seen = {{ lines: [], notes: [], states: [], figures: [], progress: [], previews: 0 }};
    const watch = {{ subtree: true, childList: true, characterData: true }};
    new MutationObserver(() => {{
        seen.lines.push({LINE});
        seen.notes.push({NOTE});
        seen.states.push(...{STATES});
        seen.figures.push({FIGURES});
    }}).observe(document.querySelector('.parallel-panel'), watch);
    window.app.api.addEventListener('progress', (event) => seen.progress.push(event.detail.value));
    window.app.api.addEventListener('b_preview', () => (seen.previews += 1));
}})()"""
STEPS = 3000
"""More than a test waits for."""


@pytest.fixture
def panel(front):
    """The front end with the tab open."""
    front.show_panel()
    return front


@pytest.fixture
def warm(panel):
    """The same, with a pool that has run and waits."""
    pools = panel.server.get("/parallel/pools")
    if not pools or pools[0]["state"] != "idle":
        panel.queue()
        panel.browser.wait(f"{RUNS} > 0 && {STATES}.length && {STATES}.every((state) => state === 'idle')")
    return panel


@pytest.fixture
def ran(warm):
    """The same, and the last run went well."""
    if warm.pool()["run"]["outcome"] != "done":
        warm.queue()
        wait_line(warm, "^2 workers")
    done(warm)
    return warm


def theme(front, name: str) -> None:
    front.browser.evaluate("window.app.extensionManager.setting.set('Comfy.ColorPalette', given)", name)


def done(front) -> None:
    """Wait until the panel shows the report of the newest run."""
    run_id = front.server.get("/parallel/runs/latest")["run_id"]
    front.browser.wait(f"document.querySelector('.parallel-pool')?.dataset.run === {run_id!r}")


def wait_line(front, pattern: str) -> str:
    """Wait until the pool's line matches a JavaScript pattern; returns it."""
    return front.browser.wait(f"/{pattern}/.test({LINE}) && {LINE}")


def cancelled(front) -> None:
    front.post("/api/interrupt")
    wait_line(front, "^Cancelled")


def test_without_a_pool_the_tab_says_how_to_get_one(panel):
    panel.show_panel()
    panel.browser.wait("document.querySelector('.parallel-panel').innerText.includes('No workers yet')")
    assert "No run since ComfyUI started." in panel.browser.text(".parallel-panel")
    panel.screenshot("no_pool")


def test_a_run_is_seen_from_the_start_of_its_workers_to_its_result(panel):
    browser = panel.browser
    browser.evaluate(WATCH)
    panel.queue(KSampler__steps=12)
    wait_line(panel, "^2 workers, .* s per step, .*x less data sent, worst error .* %")
    done(panel)
    seen = browser.evaluate("window.seen")
    assert "Starting 2 workers, 0 ready" in seen["lines"]
    assert any(line and line.startswith("Loading the model on 2 workers") for line in seen["lines"])
    assert any(line and line.startswith("Step 3 of 12, ") for line in seen["lines"])
    assert {"starting", "idle", "sampling"} <= set(seen["states"])
    assert any("by worker 0" in figures.get("Sent", "") and "Ratio" in figures for figures in seen["figures"])
    assert any(note and note.startswith("Starting 2 workers") for note in seen["notes"])
    assert browser.evaluate(STATES) == ["idle", "idle"]
    assert seen["progress"] == list(range(1, 13)) and seen["previews"] == 12
    saved = "Object.values(window.app.nodeOutputs).flatMap((output) => output.images ?? [])"
    browser.wait(f"{saved}.some((image) => image.filename.startsWith('tiny'))")
    browser.wait(f"{RUNS} > 0")


def test_the_final_figures_are_those_of_the_report(ran):
    report = ran.server.get("/parallel/runs/latest")
    figures = ran.browser.evaluate(FIGURES)
    number = {name: float(text.split()[0].rstrip("x")) for name, text in figures.items()}
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    assert number["Seconds per step"] == pytest.approx(report["sampling_seconds"] / report["steps"], rel=0.05)
    assert number["Sent"] * scale[figures["Sent"].split()[1]] == pytest.approx(report["bytes_sent"], rel=0.05)
    assert figures["Sent"].endswith("by all")
    assert number["At 16 bits"] * scale[figures["At 16 bits"].split()[1]] == pytest.approx(
        report["bytes_uncompressed"], rel=0.05
    )
    assert number["Ratio"] == pytest.approx(report["effective_ratio"], rel=0.05)
    assert number["Worst error"] == pytest.approx(100 * report["max_relative_error"], rel=0.05)
    assert report["steps"] > 0
    assert ran.browser.evaluate(LINE) == report["result"]
    ran.browser.wait(f"{NOTE} === {json.dumps(report['result'])}")


def test_the_pool_shows_its_link_and_memory(warm):
    link = warm.pool()["link"]
    about = warm.browser.text(".parallel-pool .parallel-about")
    assert about.startswith("2 workers · gloo · link ") and "B/s, " in about and about.endswith("s")
    assert link["bytes_per_second"] > 0
    cells = warm.browser.evaluate(
        "[...document.querySelectorAll('.parallel-workers td:last-child')].map((cell) => cell.textContent)"
    )
    assert len(cells) == 2 and all(cell.endswith("MB") for cell in cells)


def test_a_run_opens_with_the_keyboard_to_its_plot(ran):
    ran.browser.tell("focus", selector=".parallel-runs summary")
    ran.browser.tell("press", key="Enter")
    width = ran.browser.wait("document.querySelector('.parallel-runs img')?.naturalWidth")
    assert width == 900
    run_id = ran.server.get("/parallel/runs/latest")["run_id"]
    with urllib.request.urlopen(f"{ran.server.url}/parallel/runs/{run_id}/plot") as answer:
        assert answer.headers.get_content_type() == "image/png" and answer.read().startswith(b"\x89PNG")
    for name in ("dark", "light"):
        theme(ran, name)
        ran.screenshot(f"run_open_{name}")
    theme(ran, "dark")
    ran.browser.tell("press", key="Enter")


def test_cancel_ends_the_run_and_keeps_the_workers(warm):
    warm.queue(KSampler__steps=60)
    wait_line(warm, "^Step 2[0-9] of 60")
    for name in ("light", "dark"):
        theme(warm, name)
        warm.screenshot(f"sampling_{name}")
    cancelled(warm)
    assert warm.browser.evaluate(STATES) == ["idle", "idle"]
    warm.browser.wait(f"{NOTE}.startsWith('Cancelled after step')")


def test_a_reload_in_the_middle_of_a_run_shows_it_again(warm):
    runs = warm.browser.evaluate(RUNS)
    warm.queue(KSampler__steps=STEPS)
    wait_line(warm, "^Step [3-9] of 3000")
    warm.browser.tell("reload")
    warm.ready()
    warm.show_panel()
    before = wait_line(warm, "^Step \\d+ of 3000")
    warm.browser.wait(f"{LINE} !== {before!r} && {LINE}.startsWith('Step')")
    assert "by worker 0" in warm.browser.evaluate(FIGURES)["Sent"]
    assert warm.browser.evaluate(RUNS) == runs
    cancelled(warm)


def test_a_lost_connection_is_said_and_healed(warm):
    runs = warm.browser.evaluate(RUNS)
    warm.browser.tell("offline", offline=True)
    warm.browser.evaluate("window.app.api.socket.close()")
    warm.browser.wait("document.querySelector('.parallel-problem')?.textContent.includes('connection')")
    warm.browser.tell("offline", offline=False)
    warm.browser.wait("document.querySelector('.parallel-problem').hidden")
    warm.queue()
    warm.browser.wait(f"{RUNS} === {runs + 1}")


def test_restart_gives_other_processes(warm):
    before = {worker["pid"] for worker in warm.pool()["workers"]}
    warm.browser.click("button:text-is('Restart')")
    warm.browser.wait(f"{STATES}.includes('starting')")
    warm.screenshot("starting")
    warm.browser.wait(f"{STATES}.every((state) => state === 'idle')")
    assert not {worker["pid"] for worker in warm.pool()["workers"]} & before


def test_stop_asks_first(warm):
    warm.browser.click("button:text-is('Stop')")
    warm.browser.wait("document.body.innerText.includes('Stop the workers?')")
    warm.screenshot("stop_question")
    warm.browser.tell("press", key="Escape")
    warm.browser.wait("!document.body.innerText.includes('Stop the workers?')")
    assert warm.pool()["state"] == "idle"
    warm.browser.click("button:text-is('Stop')")
    warm.browser.click("[role=dialog] button:text-is('Confirm')")
    warm.browser.wait(f"{STATES}.every((state) => state === 'stopped')")
    assert warm.pool()["state"] == "stopped"
    warm.browser.tell("focus", selector="button:text-is('Start')")
    warm.browser.tell("press", key="Enter")
    warm.browser.wait(f"{STATES}.every((state) => state === 'idle')")
    assert warm.browser.evaluate("document.activeElement.textContent") == "Start"


def test_a_killed_worker_is_an_error_to_copy_and_the_next_run_works(warm):
    warm.queue(KSampler__steps=STEPS, KSampler__sampler_name="lcm")
    wait_line(warm, "^Step [3-9] of 3000")
    victim = warm.pool()["workers"][1]["pid"]
    os.kill(victim, signal.SIGKILL)
    warm.browser.wait("document.querySelector('.parallel-error:not([hidden]) pre')?.textContent")
    sentence = f"Worker 1 (cpu), process {victim}, ended with signal 9"
    assert sentence in warm.browser.text(".parallel-error pre")
    assert warm.browser.evaluate(STATES) == ["stopped", "dead"]
    warm.browser.wait(f"{NOTE} === 'The run failed; the tab Parallel in the sidebar shows why'")
    warm.browser.tell("press", key="Escape")  # ComfyUI shows the error of a node, too
    runs = warm.browser.evaluate(RUNS)
    warm.browser.click(".parallel-error button")
    warm.browser.wait("document.querySelector('.parallel-error button').textContent === 'Copied'")
    assert sentence in warm.browser.evaluate("navigator.clipboard.readText()")
    for name in ("dark", "light"):
        theme(warm, name)
        warm.screenshot(f"dead_{name}")
    theme(warm, "dark")
    warm.queue()
    warm.browser.wait(f"{RUNS} === {runs + 1}")
    assert warm.browser.evaluate(STATES) == ["idle", "idle"]
    assert warm.browser.evaluate("document.querySelector('.parallel-error').hidden")


def test_a_stopped_worker_is_seen_while_nothing_else_happens(warm):
    warm.queue(KSampler__steps=STEPS)
    wait_line(warm, "^Step [3-9] of 3000")
    victim = warm.pool()["workers"][1]["pid"]
    os.kill(victim, signal.SIGSTOP)
    said = warm.browser.wait(f"/^sampling, has not answered for \\d+ s$/.test({STATES}[1]) && {STATES}[1]")
    warm.browser.wait(f"{STATES}[1].startsWith('sampling, has not answered') && {STATES}[1] !== {said!r}")
    wait_line(warm, "^Step \\d+ of 3000, .*, worker 1 has not answered for \\d+ s$")
    warm.browser.wait(f"{NOTE}.includes('worker 1 has not answered for')")
    for name in ("light", "dark"):
        theme(warm, name)
        warm.screenshot(f"silent_{name}")
    cancelled(warm)
    warm.browser.wait("document.querySelector('.parallel-error:not([hidden]) pre')?.textContent")
    sentence = f"Worker 1 (cpu), process {victim}, has not answered for"
    assert warm.browser.text(".parallel-error pre").startswith(sentence)
    assert warm.browser.evaluate(STATES) == ["stopped", "dead"]
    runs = warm.browser.evaluate(RUNS)
    warm.queue()
    warm.browser.wait(f"{RUNS} === {runs + 1}")


def test_a_worker_that_ends_while_nothing_runs_is_seen(warm):
    os.kill(warm.pool()["workers"][0]["pid"], signal.SIGKILL)
    warm.browser.wait(f"{STATES}[0] === 'dead'")
    message = "document.querySelector('.parallel-error:not([hidden]) pre')?.textContent"
    assert "Worker 0 (cpu)" in warm.browser.wait(f"{message}?.includes('ended') && {message}")
    warm.browser.click("button:text-is('Start')")
    warm.browser.wait(f"{STATES}.every((state) => state === 'idle')")


def test_step_reuse_shows_its_rounds(ran):
    assert "Look-ahead" not in ran.browser.evaluate(FIGURES)
    strategy = {"Parallel_Strategy__mode.ring_degree": 1, "Parallel_Strategy__mode.step_degree": 2}
    ran.queue(KSampler__steps=20, Residual_Compression__mode="off", **strategy)
    wait_line(ran, "calls in \\d+ rounds")
    done(ran)
    report = ran.server.get("/parallel/runs/latest")
    ahead = report["calls"] - report["rounds"]
    assert ahead > 0
    assert ran.browser.evaluate(FIGURES)["Look-ahead"] == f"{ahead} ahead in {report['rounds']} rounds"


def test_the_idle_time_of_the_settings_dialog_takes_effect(warm):
    def minutes():
        return warm.server.get("/parallel/settings")["idle_minutes"]

    assert minutes() == 15
    warm.browser.evaluate("window.app.extensionManager.setting.set('CompactParallel.IdleMinutes', 7)")
    warm.browser.wait(
        "(async () => (await (await fetch('/parallel/settings')).json()).idle_minutes === 7)()",
    )
    assert minutes() == 7
    warm.browser.evaluate("window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    warm.browser.click("[role=dialog] :text-is('Parallel')")
    warm.browser.wait("document.body.innerText.includes('Stop idle workers after')")
    warm.screenshot("settings")
    warm.browser.tell("press", key="Escape")
    warm.post("/parallel/settings", {"idle_minutes": 0.02})
    warm.browser.wait(f"{STATES}.every((state) => state === 'stopped')")
    warm.post("/parallel/settings", {"idle_minutes": 15})
    request = urllib.request.Request(f"{warm.server.url}/parallel/settings", json.dumps({"idle_minutes": 0}).encode())
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert "idle_minutes is 0" in json.load(caught.value)["error"]


def test_twenty_runs_are_listed_and_more_are_not(panel):
    before = len(panel.server.get("/parallel/runs"))
    for _ in range(max(0, 22 - before)):
        panel.queue(KSampler__steps=1, Empty_Latent__width=64, Empty_Latent__height=64)
    panel.browser.wait("fetch('/parallel/runs').then((answer) => answer.json()).then((runs) => runs.length >= 22)")
    panel.browser.wait(f"{RUNS} === 20")
    newest = panel.server.get("/parallel/runs/latest")["run_id"]
    panel.browser.wait(f"document.querySelector('.parallel-runs > li').dataset.run === {newest!r}")
    for name in ("dark", "light"):
        theme(panel, name)
        panel.screenshot(f"twenty_{name}")
    theme(panel, "dark")


def test_nothing_is_cut_off(warm):
    wide = warm.browser.evaluate(
        "[...document.querySelectorAll('.parallel-panel, .parallel-panel *')]"
        ".filter((element) => element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0"
        " && getComputedStyle(element).overflowX !== 'visible').map((element) => element.className || element.tagName)"
    )
    assert wide == []


def test_the_browser_had_nothing_to_complain_about_us(front):
    assert [text for text in front.browser.tell("complaints") if "CompactParallel" in text] == []
