"""The button of the tab "Parallel" that copies the last run's report for an issue."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from front import ROOT, workflow

pytestmark = pytest.mark.server
BUTTON = ".parallel-copier button"
COPIED = "document.querySelector('.parallel-copier button').textContent === 'Copied'"


def copied(front) -> tuple[str, dict]:
    """The text on the clipboard after a press of the button, and the JSON in it."""
    front.browser.evaluate("navigator.clipboard.writeText('nothing yet')")
    front.browser.click(BUTTON)
    front.browser.wait(COPIED)
    front.browser.wait("navigator.clipboard.readText().then((text) => text !== 'nothing yet')")  # "Copied" may be older
    text = front.browser.evaluate("navigator.clipboard.readText()")
    return text, json.loads(text.removeprefix("```json\n").removesuffix("```\n"))


def test_the_report_is_copied_with_versions_and_without_paths_and_prompts(front):
    front.show_panel()
    assert front.browser.text(BUTTON) == "Copy report for an issue"
    latest = (
        "fetch('/parallel/runs/latest').then((found) => found.ok ? found.json() : {}).then((run) => run.run_id ?? '')"
    )
    before = front.browser.evaluate(latest)
    front.queue()
    front.browser.wait(f"{latest}.then((run) => run !== {before!r})")
    text, told = copied(front)
    latest = front.server.get("/parallel/runs/latest")
    assert told["report"] == latest and latest["warnings"] is not None
    assert told["versions"]["torch"] == torch.__version__ and told["versions"]["comfyui"].startswith("ComfyUI 0.")
    assert told["versions"]["pack"] and told["cards"] == []
    pool = told["pools"][-1]
    assert pool["devices"] == ["cpu", "cpu"] and pool["link"]["bytes_per_second"] > 0
    for place in (os.environ["COMFYUI_PATH"], str(ROOT), tempfile.gettempdir(), str(Path.home()), sys.prefix):
        assert place not in text
    prompts = [node["inputs"] for node in workflow().values() if node["class_type"] == "CompactParallelDemoPrompt"]
    assert prompts[0]["colour"] == "orange" and "orange" not in text
    assert front.browser.text(".parallel-copier pre").strip() == text.strip()
    front.screenshot("report_copied")


def test_after_a_failed_run_its_error_is_in_it_without_the_workers_last_words(front):
    front.show_panel()
    front.queue(KSampler__steps=3000, KSampler__sampler_name="lcm")
    lines = "[...document.querySelectorAll('.parallel-line')].map((line) => line.textContent)"
    front.browser.wait(f"{lines}.some((line) => /^Step \\d+ of 3000/.test(line))")
    (pool,) = (pool for pool in front.server.get("/parallel/pools") if pool["state"] == "sampling")
    victim = pool["workers"][1]["pid"]
    os.kill(victim, signal.SIGKILL)
    errors = "[...document.querySelectorAll('.parallel-error:not([hidden]) pre')].map((error) => error.textContent)"
    whole = front.browser.wait(f"{errors}.find((error) => error.includes('process {victim},'))")
    front.browser.tell("press", key="Escape")
    _, told = copied(front)
    errors = [other["last_error"] for other in told["pools"]]
    assert whole.splitlines()[0] in errors
    assert whole.startswith(f"Worker 1 (cpu), process {victim}, ended with signal 9")
    assert len(whole.splitlines()) > 1
