"""Runs a template on a real ComfyUI server, without and with Parallel Model, and compares the latents."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from compact_parallel.workflows.comfy_server import PACK_NAME, ComfyServer
from live_server import ROOT, Talk

from . import prompts
from .weights import remove_files, write_files

DEVICES = "cpu,cpu"
_PACK = Path(__file__).parent / "tiny_weights"
TOLERANCE = 1e-5
"""The largest difference of equal latents, relative to their largest value, which allows for float32 rounding."""
SAME = "both workers the same"


@dataclass(frozen=True)
class Run:
    """The results of a template.

    Attributes:
        samplers: the number of samplers.
        ways: how the pool divided each sampling, by the runs' reports: "CFG x2", "sequence x2" or `SAME`.
        told: families whose files state their sizes, because ComfyUI does not detect them from the weights.
        difference: between the latents with Parallel Model and those of stock, relative to the largest value of stock.
        control: the same difference for another text, or for another seed if there is no text.
        stock_seconds, parallel_seconds: seconds of the whole prompt, loading included.
    """

    samplers: int
    ways: tuple[str, ...]
    told: frozenset[str]
    difference: float
    control: float
    stock_seconds: float
    parallel_seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether Parallel Model changed nothing, and the control shows that a change would be seen."""
        return self.difference <= TOLERANCE < self.control


class Runner:
    """Runs templates on a server with tiny weights."""

    def __init__(self, server: ComfyServer, folder: Path) -> None:
        self._talk = Talk(server)
        self._folder = folder
        self._object_info = server.get("/object_info")

    def run(self, prompt: dict[str, Any]) -> Run:
        """Runs a template's prompt, with Parallel Model before its samplers, three times: stock, parallel, control.

        Raises the client's error for a node that fails, and KeyError if a file cannot be made small.
        """
        self._post("/free", {"unload_models": True, "free_memory": True})
        remove_files(self._folder)
        told = write_files(prompt, self._folder)
        small = prompts.small(prompt, self._object_info)
        before = {report["run_id"] for report in self._reports()}
        begin = time.monotonic()
        stock = self._latents(prompts.stock(small))
        middle = time.monotonic()
        parallel = self._latents(prompts.parallel(small, DEVICES))
        end = time.monotonic()
        reports = [report for report in self._reports() if report["run_id"] not in before]
        control = self._latents(prompts.stock(prompts.other(small)))
        return Run(
            samplers=len(stock),
            ways=tuple(map(way, reports)),
            told=frozenset(told),
            difference=difference(parallel, stock),
            control=difference(control, stock),
            stock_seconds=middle - begin,
            parallel_seconds=end - middle,
        )

    def _latents(self, prompt: dict[str, Any]) -> list[torch.Tensor]:
        _, outputs = self._talk.run(prompt)
        saved = [outputs[key]["latents"][0] for key in sorted(outputs) if key.startswith(prompts.LATENT)]
        return [safetensors.torch.load(self._talk.fetch(file))["latent_tensor"] for file in saved]

    def _reports(self) -> list[dict[str, Any]]:
        return self._talk.server.get("/parallel/runs")

    def _post(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._talk.server.url + path, json.dumps(body).encode(), headers)
        urllib.request.urlopen(request, timeout=60).close()


def way(report: dict[str, Any]) -> str:
    """How the pool divided a run, by its report."""
    strategy = report["strategy"]
    degrees = {
        "CFG": strategy["cfg_degree"],
        "sequence": strategy["ulysses_degree"] * strategy["ring_degree"],
        "data": strategy["data_degree"],
        "step": strategy["step_degree"],
    }
    if not report["bytes_sent"]:
        return SAME
    return ", ".join(f"{name} x{degree}" for name, degree in degrees.items() if degree > 1)


def difference(some: list[torch.Tensor], stock: list[torch.Tensor]) -> float:
    """The largest difference of latents, each relative to the largest value of its stock latent."""
    if not stock or len(some) != len(stock):
        raise ValueError(f"{len(some)} and {len(stock)} latents cannot be compared")
    each = [(one - other).abs().max() / other.abs().max() for one, other in zip(some, stock)]
    return float(torch.stack(each).max())  # NaN if one is


@contextmanager
def running(folder: Path) -> Iterator[Runner]:
    """A ComfyUI server with this pack and tiny_weights, with base directory `folder`."""
    packs = folder / "custom_nodes"
    packs.mkdir()
    (packs / _PACK.name).symlink_to(_PACK, target_is_directory=True)
    arguments = ("--cpu", "--whitelist-custom-nodes", PACK_NAME, _PACK.name)
    comfyui = Path(os.environ["COMFYUI_PATH"])
    with ComfyServer(sys.executable, comfyui, ROOT, folder, arguments=arguments) as server:
        yield Runner(server, folder)
