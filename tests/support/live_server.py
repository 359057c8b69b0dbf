"""A real ComfyUI server with this pack for tests, with helpers to run workflows on it."""

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

ROOT = Path(__file__).resolve().parents[2]


class Talk:
    """A client of a test server. Give every prompt a seed of its own, so that no result comes from a cache."""

    def __init__(self, server: ComfyServer) -> None:
        self.server = server
        self.folder = server.output.parent
        self.pid = server.pid

    def run(self, workflow, on_event=None):
        """Runs a workflow; returns events and outputs. `on_event(client, prompt_id, event)` may return a coroutine."""

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
        """The content of a saved file."""

        async def get():
            async with Client(self.server.url) as client:
                return await client.fetch(file)

        return asyncio.run(get())

    def latent(self, workflow):
        """Runs the workflow and loads the latent that its SaveLatent node saved."""
        return self.saved_latent(workflow, self.run(workflow)[1])

    def saved_latent(self, workflow, outputs):
        """The latent that the SaveLatent node of a workflow saved in a run with these outputs."""
        return safetensors.torch.load(self.fetch(outputs[node(workflow, "Save Latent")]["latents"][0]))["latent_tensor"]

    def pools(self) -> list[dict]:
        """GET /parallel/pools."""
        return self.server.get("/parallel/pools")


@contextmanager
def running(folder: Path, pack: Path = ROOT) -> Iterator[Talk]:
    """A running server with base directory `folder`, with this checkout of the pack or a copy of it."""
    with ComfyServer(sys.executable, Path(os.environ["COMFYUI_PATH"]), pack, folder) as server:
        yield Talk(server)


def post(server: ComfyServer, path: str) -> None:
    """Sends a POST without a body."""
    request = urllib.request.Request(server.url + path, data=b"", method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def node(workflow: dict, title: str) -> str:
    """The id of the node with this title."""
    (found,) = (key for key, value in workflow.items() if value["_meta"]["title"] == title)
    return found


def shipped(name: str) -> dict:
    """A workflow of workflows/api/, unchanged."""
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())


def workflow(name: str, **changes) -> dict:
    """A workflow of workflows/api/ with a small picture and 4 steps; `changes` set inputs, as Title__input=value."""
    made = copy.deepcopy(shipped(name))
    made[node(made, "Empty Latent")]["inputs"].update(width=256, height=240)
    made[node(made, "KSampler")]["inputs"]["steps"] = 4
    for key, value in changes.items():
        title, _, name = key.partition("__")
        made[node(made, title.replace("_", " "))]["inputs"][name] = value
    return made
