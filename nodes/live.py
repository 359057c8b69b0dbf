"""Sends the state of pools and runs to the browser: to the panel by websocket, and as a text on Parallel Model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import psutil
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..runtime.pool.pool import Pool
from ..runtime.pool.registry import pools
from ..runtime.report.history import runs
from ..runtime.report.live import LiveRun, live
from ..runtime.report.wording import say, status, status_line
from .locales import words_of
from .settings import LANGUAGE, stored

EVENT = "compact_parallel"
NODE_TYPES = ("CompactParallelModel", "CompactParallelPipeline")


def pool_view(pool: Pool) -> dict[str, Any]:
    """A pool's status with the memory of its processes and its current or last run (None before the first)."""
    seen = pool.status()
    for worker in seen["workers"]:
        worker["process_bytes"] = _process_bytes(worker["pid"])
    run = live().of(pool.config.name)
    if run is None:
        return {**seen, "run": None}
    said = status(run, seen)
    return {**seen, "run": {**run.to_json(), "line": say(said), "said": said}}


def pool_views() -> list[dict[str, Any]]:
    """The view of every pool, for the panel."""
    return [pool_view(pool) for pool in pools().all()]


def _process_bytes(pid: int | None) -> int | None:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss if pid is not None else None
    return None


def nearest_parallel_model(prompt: Any, node: str) -> str | None:
    """The id of the nearest node of ours upstream of a node of a running prompt (DynamicPrompt), None without one."""
    waiting, seen = [node], {node}
    while waiting:
        found = waiting.pop(0)
        if not prompt.has_node(found):
            continue
        asked = prompt.get_node(found)
        if asked["class_type"] in NODE_TYPES:
            return prompt.get_display_node_id(found)
        links = [value[0] for value in asked["inputs"].values() if isinstance(value, list) and len(value) == 2]
        fresh = [str(link) for link in links if str(link) not in seen]
        seen.update(fresh)
        waiting += fresh
    return None


@dataclass
class _Line:
    """The text about one run on its node: node id, browser (client id), translations and the text last sent."""

    run: LiveRun
    node: str | None
    client: str | None
    words: dict[str, str]
    text: str = ""


class Forwarder:
    """A listener of `Live` that sends every change to the browsers."""

    def __init__(self, server: PromptServer) -> None:
        self._server = server
        self._lines: dict[str, _Line] = {}

    def __call__(self) -> None:
        """Sends the state after a change of a pool or a run. Any thread may call it."""
        if self._server.loop.is_closed():  # ComfyUI is shutting down, and its pools with it
            return
        latest = runs().latest()
        state = {"pools": pool_views(), "latest_run": latest["run_id"] if latest else None}
        self._server.send_sync(EVENT, state)
        for run in live().runs():
            self._tell(run)

    def _tell(self, run: LiveRun) -> None:
        line = self._lines.get(run.pool)
        if line is None or line.run is not run:
            context = get_executing_context()
            if context is None:  # the thread that executes the node, which knows its id, will call this soon
                return
            node = nearest_parallel_model(get_progress_state().dynprompt, context.node_id)
            line = self._lines[run.pool] = _Line(run, node, self._server.client_id, words_of(stored(LANGUAGE, "en")))
        pool = pools().find(run.pool)
        text = status_line(run, pool.status() if pool is not None else None, line.words)
        if line.node is not None and line.client is not None and text != line.text:
            line.text = text
            self._server.send_progress_text(text, line.node, line.client)


def forward_events(server: PromptServer) -> None:
    """Registers a `Forwarder`, so that browsers are told of every change."""
    live().listen(Forwarder(server))
