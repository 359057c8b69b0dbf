"""Runs a workflow on a ComfyUI server from the command line.

    python3 workflows/client.py workflows/api/tiny.json --set KSampler.steps=8 --set 3.colour=green --out pictures

WORKFLOW.json is the API form (Workflow > Export (API)). Progress goes to standard error; what was saved and what the
parallel runs measured go to standard output.

exit codes:
  0  the workflow ran to its end
  1  it ran, but something else failed, for instance a file could not be fetched
  2  wrong usage: nothing was queued
  3  the server refused the workflow: nothing was run
  4  a node raised an error
  5  the workflow was cancelled, here (Ctrl+C) or on the server
  6  there is no connection to the server, or no longer
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp
from tqdm import tqdm

from ..runtime.report.summary import summarize
from .client import (
    Client,
    ClientError,
    ConnectionLost,
    Event,
    Executing,
    Interrupted,
    NodeError,
    Progress,
    Refused,
    Workflow,
)
from .client_overrides import WrongOverride, override, title_of

FINE, FAILED, WRONG_USAGE, REFUSED, NODE_ERROR, INTERRUPTED, CONNECTION_LOST = range(7)
_CODES = {Refused: REFUSED, NodeError: NODE_ERROR, Interrupted: INTERRUPTED, ConnectionLost: CONNECTION_LOST}


class WrongUsage(Exception):
    """The command line cannot be carried out; nothing was queued."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    asked = _parser().parse_args(arguments)
    try:
        asyncio.run(_until_a_signal(_run(asked)))
    except (WrongUsage, WrongOverride) as error:
        return _fail(WRONG_USAGE, str(error))
    except aiohttp.InvalidURL:
        return _fail(WRONG_USAGE, f"--server {asked.server} is no address; write it like http://127.0.0.1:8188.")
    except ClientError as error:
        return _fail(_CODES.get(type(error), FAILED), str(error))
    except aiohttp.ClientError as error:
        return _fail(CONNECTION_LOST, f"There is no ComfyUI server to talk to at {asked.server}: {error}")
    except OSError as error:
        return _fail(FAILED, f"{error.filename or asked.out}: {error.strerror or error}.")
    except (asyncio.CancelledError, KeyboardInterrupt):
        return _fail(INTERRUPTED, "Cancelled.")
    return FINE


async def _until_a_signal(work: Coroutine[Any, Any, None]) -> None:
    """Awaits `work`, and cancels it at its current await on Ctrl+C or SIGTERM.

    Python's own handler raises KeyboardInterrupt wherever the code happens to be. Within a coroutine that is not a
    cancellation: it would end the command and leave the workflow running on the server.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(task.cancel))
    await work


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="client.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json")
    parser.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="default: %(default)s")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="another value for an input; the node by its title or number; can be given many times",
    )
    parser.add_argument(
        "--upload",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help='put a file into the server\'s input folder first, for instance for --set "Load Image.image=FILE"',
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="save what the output nodes made and showed here")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _fail(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code


async def _run(asked: argparse.Namespace) -> None:
    workflow = load(asked.workflow)
    for file in asked.upload:
        if not file.is_file():
            raise WrongUsage(f"--upload {file}: there is no such file.")
    if asked.out:
        try:
            asked.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongUsage(f"--out {asked.out}: {error.strerror}.") from error
    async with Client(asked.server) as client:
        for file in asked.upload:
            print(f"Uploaded {await client.upload(file)}")
        if asked.set:
            classes = {node["class_type"] for node in workflow.values()}
            object_info: dict[str, Any] = {}
            for name in sorted(classes):
                object_info |= await client.get(f"/object_info/{name}")
            for text in asked.set:
                override(workflow, text, object_info)
        reports, outputs = await _follow(client, workflow, _Bar(workflow, disable=asked.quiet))
        if asked.out:
            await _save(client, workflow, outputs, asked.out)
    for report in reports:
        print(summarize(report))


def load(path: Path) -> Workflow:
    """Loads a workflow from a file. Raises WrongUsage unless it is in API form."""
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUsage(f"{path}: {error.strerror}.") from error
    except ValueError as error:
        raise WrongUsage(f"{path} is not JSON: {error}.") from error
    if isinstance(workflow, dict) and "nodes" in workflow:
        raise WrongUsage(f"{path} is a workflow for the browser; export its API form there: Workflow > Export (API).")
    nodes = workflow.values() if isinstance(workflow, dict) else [None]
    if not all(isinstance(node, dict) and {"class_type", "inputs"} <= node.keys() for node in nodes):
        raise WrongUsage(f"{path} is no workflow in API form: each entry needs a class_type and inputs.")
    return workflow


async def _follow(client: Client, workflow: Workflow, bar: _Bar) -> tuple[list[dict], dict[str, dict]]:
    """Runs a workflow and shows its progress. Returns the reports of its parallel runs and its nodes' outputs."""
    prompt_id = await client.queue(workflow)
    try:
        async for event in client.events(prompt_id):
            bar.show(event)
    except asyncio.CancelledError:
        await client.cancel(prompt_id)
        raise
    finally:
        bar.close()
    made = [report for report in await _runs(client) if report.get("prompt_id") == prompt_id]
    return made[::-1], (await client.history(prompt_id))["outputs"]


async def _runs(client: Client) -> list[dict[str, Any]]:
    """The reports of the parallel runs that the server keeps, newest first; empty if it does not have this pack."""
    try:
        return await client.get("/parallel/runs")
    except ClientError:
        return []


async def _save(client: Client, workflow: Workflow, outputs: dict[str, dict], folder: Path) -> None:
    """Saves the files (in their subfolders) and texts that output nodes gave, and prints their paths."""
    for node, shown in outputs.items():
        for kind, entries in shown.items():
            files = [entry for entry in entries if isinstance(entry, dict) and "filename" in entry]
            for file in files:
                _write(inside(folder, file), await client.fetch(file))
            if kind == "text":
                name = re.sub(r"[^\w -]", "_", title_of(workflow, node))
                _write(folder / f"{node} {name}.txt", "\n".join(map(str, entries)).encode())


def inside(folder: Path, file: dict[str, str]) -> Path:
    """The path in `folder` where a file of the server is saved. Raises ClientError if it would be outside."""
    path = PurePosixPath(file.get("subfolder", "").replace("\\", "/"), file["filename"].replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in str(path):
        raise ClientError(f"The server names a file outside of its folder: {path}.")
    return folder / path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"Saved {path}")


class _Bar:
    """Shows a progress bar, on standard error, for each node that reports progress."""

    def __init__(self, workflow: Workflow, *, disable: bool) -> None:
        self._workflow = workflow
        self._disable = disable
        self._node = ""
        self._bar: tqdm | None = None

    def show(self, event: Event) -> None:
        """Updates the bar for an event."""
        if isinstance(event, Executing):
            self.close()
        elif isinstance(event, Progress):
            if self._bar is None or event.node != self._node:
                self.close()
                name = title_of(self._workflow, event.node) if event.node in self._workflow else event.node
                self._bar = tqdm(total=event.maximum, desc=name, disable=self._disable)
                self._node = event.node
            # ComfyUI never counts beyond the announced maximum; a node that goes on (dpm_adaptive) repeats the maximum.
            beyond = event.value == event.maximum == self._bar.n
            self._bar.total = None if beyond else event.maximum
            self._bar.set_postfix_str("and more" if beyond else "", refresh=False)
            self._bar.update(event.value - self._bar.n)

    def close(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
