"""A small client of ComfyUI's API: queue a workflow, follow it, cancel it, fetch what it made.

    async with Client("http://127.0.0.1:8188") as client:
        await client.upload(Path("photo.png"))
        result = await client.run(workflow, on_event=print)
        png = await client.fetch(result.files("9", "images")[0])

A workflow is the API form (Workflow > Export (API)): {node id: {"class_type": ..., "inputs": {...}}}.

It is also a command, described by `python3 workflows/client.py --help` (see client_command.py).
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
import time
import types
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import aiohttp
except ModuleNotFoundError as error:
    if __name__ == "__main__":
        sys.exit("This needs aiohttp, which ComfyUI has; start it with ComfyUI's Python.")
    raise error

Workflow = dict[str, Any]
_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_HEARTBEAT_SECONDS = 120
"""Interval of the websocket's heartbeat; long, because a server that is busy loading a model answers late."""
_ANSWER_SECONDS = 120
"""Timeout of an HTTP request while the server sends nothing."""


class ClientError(Exception):
    """The workflow did not run to its end."""


class Refused(ClientError):
    """The server did not accept the workflow; the message has all its reasons."""


class Interrupted(ClientError):
    """The workflow was cancelled, or removed from the queue."""


class ConnectionLost(ClientError):
    """The server closed the connection before the workflow ended."""


class NodeError(ClientError):
    """A node raised an error. Holds its id, its class, the type and text of the error, and the server's traceback."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.node: str = data["node_id"]
        self.node_type: str = data["node_type"]
        self.exception_type: str = data["exception_type"]
        self.text: str = data["exception_message"].strip()
        self.traceback = "".join(data["traceback"])
        super().__init__(f"{self.node_type} (node {self.node}): {self.text}")


@dataclass(frozen=True)
class Event:
    """An event of a workflow; `seconds` is the time.perf_counter of this client."""

    seconds: float = field(default_factory=time.perf_counter, kw_only=True)


@dataclass(frozen=True)
class Executing(Event):
    """A node began; with None the workflow ended."""

    node: str | None


@dataclass(frozen=True)
class Cached(Event):
    """These nodes will not run, because the server still has their outputs."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Progress(Event):
    """A node is at `value` of `maximum`."""

    node: str
    value: int
    maximum: int


@dataclass(frozen=True)
class Preview(Event):
    """A preview picture: the bytes of a file of this MIME type."""

    mime_type: str
    data: bytes


@dataclass(frozen=True)
class Executed(Event):
    """An output node gave its output, for instance {"images": [...]}."""

    node: str
    output: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A finished workflow: all its events, and the output of its output nodes by node id."""

    prompt_id: str
    events: list[Event]
    outputs: dict[str, dict[str, Any]]

    def files(self, node: str, kind: str) -> list[dict[str, str]]:
        """The files that a node saved: `kind` is "images", "latents" and so on. For `Client.fetch`."""
        return self.outputs[node][kind]

    def text(self, node: str) -> str:
        """The text that a "Preview as Text" node shows."""
        return self.outputs[node]["text"][0]

    def cached(self) -> set[str]:
        """Ids of the nodes that did not run because their outputs were cached."""
        return {node for event in self.events if isinstance(event, Cached) for node in event.nodes}

    def node_seconds(self, node: str) -> float:
        """Wall seconds from the start of a node to the start of the next one.

        Raises ClientError if the node did not run, for instance because its output was cached.
        """
        steps = [event for event in self.events if isinstance(event, Executing)]
        for step, following in pairwise(steps):
            if step.node == node:
                return following.seconds - step.seconds
        raise ClientError(f"Node {node} did not run{' (its output was cached)' if node in self.cached() else ''}.")


class Client:
    """One connection to a ComfyUI server; an async context manager. Follows one workflow at a time."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._id = uuid.uuid4().hex

    async def __aenter__(self) -> Client:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_ANSWER_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)
        try:
            self._socket = await self._session.ws_connect(
                f"{self._url}/ws?clientId={self._id}", max_msg_size=0, heartbeat=_HEARTBEAT_SECONDS
            )
        except BaseException:
            await self._session.close()
            raise
        await self._socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._socket.close()
        await self._session.close()

    async def queue(self, workflow: Workflow, **extra_data: Any) -> str:
        """Queues a workflow and returns its prompt id. Raises Refused.

        `extra_data` goes to the server as it is, for instance preview_method="latent2rgb".
        """
        body = {"prompt": workflow, "client_id": self._id, "extra_data": extra_data}
        async with self._session.post(f"{self._url}/prompt", json=body) as answer:
            data = await answer.json()
        if answer.status != 200:
            raise Refused(_reasons(data))
        return data["prompt_id"]

    async def events(self, prompt_id: str) -> AsyncIterator[Event]:
        """Yields the events of a queued workflow until it has ended.

        Raises NodeError, Interrupted or ConnectionLost if it ends that way.
        """
        failure: ClientError | None = None
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                if preview := _preview(message.data):
                    yield preview
                continue
            data = json.loads(message.data)
            kind, data = data["type"], data["data"]
            if kind == "status" and await self._is_forgotten(prompt_id):
                raise Interrupted("The workflow was removed from the queue.")
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "execution_error":
                failure = NodeError(data)
            elif kind == "execution_interrupted":
                failure = Interrupted("The workflow was cancelled.")
            elif event := _event(kind, data):
                yield event
                if isinstance(event, Executing) and event.node is None:
                    if failure:
                        raise failure
                    return
        raise ConnectionLost("The server closed the connection before the workflow ended.")

    async def wait(self, prompt_id: str, on_event: Callable[[Event], None] | None = None) -> Result:
        """Follows a queued workflow to its end. Raises as `events`."""
        events = []
        async for event in self.events(prompt_id):
            events.append(event)
            if on_event:
                on_event(event)
        history = await self.history(prompt_id)
        return Result(prompt_id, events, history["outputs"])

    async def run(
        self, workflow: Workflow, on_event: Callable[[Event], None] | None = None, **extra_data: Any
    ) -> Result:
        """Queues a workflow and follows it to its end. Raises as `queue` and `events`."""
        return await self.wait(await self.queue(workflow, **extra_data), on_event)

    async def cancel(self, prompt_id: str) -> None:
        """Asks the server to stop a workflow, whether it runs or is queued."""
        await self._post("/interrupt", {"prompt_id": prompt_id})
        await self._post("/queue", {"delete": [prompt_id]})

    async def free(self) -> None:
        """Asks the server to unload all models."""
        await self._post("/free", {"unload_models": True, "free_memory": True})

    async def upload(self, file: Path) -> str:
        """Puts a file into the server's input folder, replacing one of the same name; returns its name there.

        Raises ClientError, or OSError if the file cannot be read.
        """
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", file.read_bytes(), filename=file.name)
        async with self._session.post(f"{self._url}/upload/image", data=form) as answer:
            if answer.status != 200:
                raise ClientError(f"The server did not take {file.name} (it answered {answer.status}).")
            return (await answer.json())["name"]

    async def _is_forgotten(self, prompt_id: str) -> bool:
        """Whether a workflow is neither in the server's queue nor in its history: it was removed from the queue."""
        queue = await self.get("/queue")
        waiting = {item[1] for item in (*queue["queue_running"], *queue["queue_pending"])}
        return prompt_id not in waiting and prompt_id not in await self.get(f"/history/{prompt_id}")

    async def history(self, prompt_id: str) -> dict[str, Any]:
        """The server's history entry of a workflow that has ended."""
        return (await self.get(f"/history/{prompt_id}"))[prompt_id]

    async def get(self, path: str) -> Any:
        """The JSON answer to GET `path`. Raises ClientError."""
        async with self._session.get(self._url + path) as answer:
            if answer.status != 200:
                raise ClientError(f"GET {path} answered {answer.status}.")
            return await answer.json()

    async def fetch(self, file: dict[str, str]) -> bytes:
        """The content of a file that a node saved. Raises ClientError."""
        async with self._session.get(f"{self._url}/view", params=file) as answer:
            if answer.status != 200:
                raise ClientError(f"The server has no file {file['filename']}.")
            return await answer.read()

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        async with self._session.post(self._url + path, json=body) as answer:
            if answer.status != 200:
                raise ClientError(f"POST {path} answered {answer.status}.")


def _event(kind: str, data: dict[str, Any]) -> Event | None:
    match kind:
        case "executing":
            return Executing(data["node"])
        case "execution_cached":
            return Cached(tuple(data["nodes"]))
        case "progress":
            return Progress(data["node"], data["value"], data["max"])
        case "executed":
            return Executed(data["node"], data["output"] or {})
    return None


def _preview(message: bytes) -> Preview | None:
    """The preview in a binary message; None if it holds no preview.

    Layout: kind; then the picture's format, or the length of the metadata and the metadata; then the picture.
    """
    kind, number = struct.unpack_from(">II", message)
    if kind == _PREVIEW:
        return Preview("image/png" if number == 2 else "image/jpeg", message[8:])
    if kind == _PREVIEW_WITH_METADATA:
        return Preview(json.loads(message[8 : 8 + number])["image_type"], message[8 + number :])
    return None


def _reasons(data: dict[str, Any]) -> str:
    """The server's reasons for refusing a workflow, as sentences."""
    error = data["error"]
    reasons = [error if isinstance(error, str) else f"{error['message']} {error['details']}".strip()]
    for node, found in data.get("node_errors", {}).items():
        where = f"{found['class_type']} (node {node})"
        reasons += [f"{where}: {e['message']} {e['details']}".strip() for e in found["errors"]]
    return "\n".join(reasons)


if __name__ == "__main__":
    pack = types.ModuleType("compact_parallel")
    pack.__path__ = [str(Path(__file__).resolve().parent.parent)]
    sys.modules[pack.__name__] = pack
    sys.exit(importlib.import_module("compact_parallel.workflows.client_command").main(sys.argv[1:]))
