"""The server starter and the API client against real ComfyUI servers, with a stand-in for the pack."""

import asyncio
import io
import os
import signal
import sys
from pathlib import Path

import pytest
from compact_parallel.workflows.client import (
    Client,
    ClientError,
    ConnectionLost,
    Executed,
    Executing,
    Interrupted,
    NodeError,
    Preview,
    Progress,
    Refused,
)
from compact_parallel.workflows.comfy_server import ComfyServer, ServerError
from PIL import Image

COMFYUI = os.environ.get("COMFYUI_PATH")
pytestmark = [pytest.mark.server, pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH is not set")]

PACK = """
import comfy.model_management
import comfy.utils
from PIL import Image

class Node:
    RETURN_TYPES, OUTPUT_NODE, FUNCTION, CATEGORY = (), True, "run", "test"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"number": ("INT", {"min": 0, "max": 100})}})

class Counts(Node):
    def run(self, number):
        bar = comfy.utils.ProgressBar(number)
        for step in range(number):
            bar.update_absolute(step + 1, number, ("PNG", Image.new("RGB", (8, 8), (step, 0, 0)), None))
        return {"ui": {"text": (str(number),)}}

class Fails(Node):
    def run(self, number):
        raise ValueError(f"number: {number} is unlucky")

class RunsUntilCancelled(Node):
    def run(self, number):
        comfy.utils.ProgressBar(2).update_absolute(1, 2)
        while True:
            comfy.model_management.throw_exception_if_processing_interrupted()

NODE_CLASS_MAPPINGS = {
    "CompactParallelModel": Node, "Counts": Counts, "Fails": Fails, "RunsUntilCancelled": RunsUntilCancelled,
}
"""


def make_server(folder, pack=PACK, **options):
    base = folder / "base"
    base.mkdir()
    (folder / "pack").mkdir()
    (folder / "pack/__init__.py").write_text(pack)
    return ComfyServer(sys.executable, Path(COMFYUI), folder / "pack", base, **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with make_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def one(node, number=3):
    return {"1": {"class_type": node, "inputs": {"number": number}}}


def run(server, workflow, **extra_data):
    async def inside():
        async with Client(server.url) as client:
            return await client.run(workflow, **extra_data)

    return asyncio.run(inside())


def test_events_arrive_in_order_with_progress_previews_and_outputs(server):
    result = run(server, one("Counts"))
    progress = [(event.node, event.value, event.maximum) for event in result.events if isinstance(event, Progress)]
    previews = [event for event in result.events if isinstance(event, Preview)]
    assert progress == [("1", 1, 3), ("1", 2, 3), ("1", 3, 3)]
    assert [Image.open(io.BytesIO(event.data)).getpixel((0, 0)) for event in previews] == [(i, 0, 0) for i in range(3)]
    assert {event.mime_type for event in previews} == {"image/png"}
    assert [event.node for event in result.events if isinstance(event, Executing)] == ["1", None]
    assert [event.output for event in result.events if isinstance(event, Executed)] == [{"text": ["3"]}]
    assert result.text("1") == "3"
    seconds = [event.seconds for event in result.events]
    assert seconds == sorted(seconds)
    assert 0 < result.node_seconds("1") <= seconds[-1] - seconds[0]


def test_a_cached_node_has_no_time(server):
    """Negative control of node_seconds: what did not run is an error, not a very fast run."""
    run(server, one("Counts", 5))
    again = run(server, one("Counts", 5))
    assert again.cached() == {"1"}
    with pytest.raises(ClientError, match="its output was cached"):
        again.node_seconds("1")


def test_error_of_a_node_is_raised_with_its_text(server):
    with pytest.raises(NodeError, match=r"^Fails \(node 1\): number: 13 is unlucky$") as caught:
        run(server, one("Fails", 13))
    assert caught.value.exception_type == "ValueError"
    assert 'raise ValueError(f"number' in caught.value.traceback


@pytest.mark.parametrize(
    ("workflow", "reason"),
    [
        (one("Counts", 1000), r"Counts \(node 1\): Value 1000 bigger than max"),
        (one("NoSuchNode"), "NoSuchNode"),
        ({}, "no outputs"),
    ],
)
def test_refused_workflow_says_why(server, workflow, reason):
    with pytest.raises(Refused, match=reason):
        run(server, workflow)


def test_cancel_and_run_again(server):
    async def inside():
        async with Client(server.url) as client:
            prompt_id = await client.queue(one("RunsUntilCancelled"))
            async for event in client.events(prompt_id):
                if isinstance(event, Progress):
                    await client.cancel(prompt_id)
            pytest.fail("it was not cancelled")

    with pytest.raises(Interrupted):
        asyncio.run(inside())
    assert run(server, one("Counts", 7)).text("1") == "7"


def test_files_are_fetched(server):
    workflow = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "sub/blue"}},
    }
    result = run(server, workflow)
    (file,) = result.files("2", "images")

    async def fetch(file):
        async with Client(server.url) as client:
            return await client.fetch(file)

    picture = Image.open(io.BytesIO(asyncio.run(fetch(file))))
    assert picture.size == (16, 8) and picture.getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(ClientError, match=r"no file other\.png"):
        asyncio.run(fetch(file | {"filename": "other.png"}))


def test_a_taken_port_is_said(server, tmp_path):
    with pytest.raises(ServerError, match=f"^Port {server.port} is taken by another program"):
        make_server(tmp_path, port=server.port)
    assert run(server, one("Counts", 9)).text("1") == "9"


def test_a_pack_that_does_not_load_is_said(tmp_path):
    broken = make_server(tmp_path, pack="raise RuntimeError('broken pack')")
    with pytest.raises(ServerError, match="could not load this pack"):
        broken.start()
    assert "broken pack" in broken.log.read_text()
    with pytest.raises(ServerError, match="not running"):
        broken.pid


def test_stopping_ends_the_processes_and_the_client_notices(tmp_path):
    async def inside(server):
        async with Client(server.url) as client:
            async for event in client.events(await client.queue(one("RunsUntilCancelled"))):
                if isinstance(event, Progress):
                    os.kill(server.pid, signal.SIGKILL)

    with make_server(tmp_path) as server:
        pid = server.pid
        with pytest.raises(ConnectionLost):
            asyncio.run(inside(server))
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    server.stop()
