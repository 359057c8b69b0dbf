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
    text = front.browser.evaluate("navigator.clipboard.readText()")
    return text, json.loads(text.removeprefix("```json\n").removesuffix("```\n"))


def test_the_report_is_copied_with_versions_and_without_paths_and_prompts(front):
    front.show_panel()
    assert front.browser.text(BUTTON) == "Copy report for an issue"
    runs = "document.querySelectorAll('.parallel-runs > li').length"
    before = front.browser.evaluate(runs)
    front.queue()
    front.browser.wait(f"{runs} > {before}")
    text, told = copied(front)
    latest = front.server.get("/parallel/runs/latest")
    assert told["report"] == latest and latest["warnings"] is not None
    assert told["versions"]["torch"] == torch.__version__ and told["versions"]["comfyui"].startswith("ComfyUI 0.")
    assert told["versions"]["pack"] and told["cards"] == []
    assert told["pools"][0]["devices"] == ["cpu", "cpu"] and told["pools"][0]["link"]["bytes_per_second"] > 0
    for place in (os.environ["COMFYUI_PATH"], str(ROOT), tempfile.gettempdir(), str(Path.home()), sys.prefix):
        assert place not in text
    prompts = [node["inputs"] for node in workflow().values() if node["class_type"] == "CompactParallelDemoPrompt"]
    assert prompts[0]["colour"] == "orange" and "orange" not in text
    assert front.browser.text(".parallel-copier pre").strip() == text.strip()
    front.screenshot("report_copied")


def test_after_a_failed_run_its_error_is_in_it_without_the_workers_last_words(front):
    front.show_panel()
    front.queue(KSampler__steps=3000)
    front.browser.wait("/^Step [3-9] of 3000/.test(document.querySelector('.parallel-line')?.textContent)")
    victim = front.pool()["workers"][1]["pid"]
    os.kill(victim, signal.SIGKILL)
    front.browser.wait("document.querySelector('.parallel-error:not([hidden]) pre')?.textContent")
    front.browser.tell("press", key="Escape")
    whole = front.browser.text(".parallel-error pre")
    _, told = copied(front)
    assert told["pools"][0]["last_error"] == whole.splitlines()[0]
    assert told["pools"][0]["last_error"].startswith(f"Worker 1 (cpu), process {victim}, ended with signal 9")
    assert len(whole.splitlines()) > 1
