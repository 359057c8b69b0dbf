"""A real ComfyUI server with this pack for tests, and a few words to talk to it."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from compact_parallel.workflows.client import Client
from compact_parallel.workflows.comfy_server import ComfyServer

ROOT = Path(__file__).resolve().parents[1]


class Talk:
    """A server, and workflows to give it. Every prompt gets a seed of its own, so that no result comes from a cache."""

    def __init__(self, server: ComfyServer) -> None:
        self.server = server
        self.folder = server.output.parent
        self.pid = server.pid

    def run(self, workflow, on_event=None):
        """Queue a workflow and wait for its end. `on_event(client, prompt_id, event)` may return a coroutine."""

        async def follow():
            async with Client(self.server.url) as client:
                prompt = await client.queue(workflow, preview_method="latent2rgb")
                result = []
                async for event in client.events(prompt):
                    result.append(event)
                    if on_event is not None and (asked := on_event(client, prompt, event)) is not None:
                        await asked
                return result, (await client.history(prompt))["outputs"]

        return asyncio.run(asyncio.wait_for(follow(), timeout=120))

    def fetch(self, file) -> bytes:
        """A saved file."""

        async def get():
            async with Client(self.server.url) as client:
                return await client.fetch(file)

        return asyncio.run(get())

    def latent(self, workflow):
        """Run the workflow and load what its SaveLatent node saved."""
        _, outputs = self.run(workflow)
        return safetensors.torch.load(self.fetch(outputs[node(workflow, "Save Latent")]["latents"][0]))["latent_tensor"]

    def pools(self) -> list[dict]:
        """GET /parallel/pools."""
        return self.server.get("/parallel/pools")


@contextmanager
def running(folder: Path, pack: Path = ROOT) -> Iterator[Talk]:
    """A running server that writes to `folder`, with this checkout of the pack or a copy of it."""
    with ComfyServer(sys.executable, Path(os.environ["COMFYUI_PATH"]), pack, folder) as server:
        yield Talk(server)


def post(server: ComfyServer, path: str) -> None:
    """POST without a body."""
    request = urllib.request.Request(server.url + path, data=b"", method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def node(workflow: dict, title: str) -> str:
    """The id of the node with this title."""
    (found,) = (key for key, value in workflow.items() if value["_meta"]["title"] == title)
    return found


def shipped(name: str) -> dict:
    """A workflow of workflows/api/ as it is."""
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())


def workflow(name: str, **changes) -> dict:
    """A workflow of workflows/api/, made small; `changes` are {"Title.input": value} given as Title__input."""
    made = copy.deepcopy(shipped(name))
    made[node(made, "Empty Latent")]["inputs"].update(width=256, height=240)
    made[node(made, "KSampler")]["inputs"]["steps"] = 4
    for key, value in changes.items():
        title, _, name = key.partition("__")
        made[node(made, title.replace("_", " "))]["inputs"][name] = value
    return made
