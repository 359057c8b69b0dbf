"""Runs the demo inside its environment: three runs on one real ComfyUI server, a comparison and a report."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from tqdm import tqdm

from ..runtime.report.metrics import psnr, relative_error, ssim
from ..runtime.report.summary import format_seconds, summarize
from .client import Client, ClientError, Event, Executing, Progress, Result, Workflow
from .comfy_server import ComfyServer, ServerError

SEED = 7
WARMUP_STEPS = 3
HIGHEST_PSNR_DB = 100.0
"""Reported for the infinite PSNR of equal pictures, which JSON cannot represent."""


@dataclass(frozen=True)
class Run:
    """One timed run: seconds of sampling, the picture, its latent and, for a parallel run, plot and report."""

    seconds: float
    png: bytes
    latent: torch.Tensor
    plot_png: bytes | None
    report: dict[str, Any] | None

    @property
    def picture(self) -> torch.Tensor:
        """The picture, x_BHWC in 0..1."""
        pixels = np.asarray(Image.open(io.BytesIO(self.png)).convert("RGB"))
        return torch.from_numpy(pixels.copy())[None] / 255


def main(comfyui: Path, pack: Path, out: Path) -> int | str:
    """Runs the demo and writes its files to `out`. Returns 0, or a sentence about what failed, for sys.exit."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        log = out / "comfyui.log"
        print(f"Starting ComfyUI from {comfyui} (its log: {log})", flush=True)
        with tempfile.TemporaryDirectory(prefix="compact-parallel-") as folder:
            server = ComfyServer(sys.executable, comfyui, pack, Path(folder), log=log)
            with server:
                runs = asyncio.run(_run_all(server.url, pack / "workflows/api"))
        report = compare(**runs)
        for name, run in runs.items():
            (out / f"{name}.png").write_bytes(run.png)
        (out / "plot.png").write_bytes(runs["parallel"].plot_png)
        (out / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    except (ServerError, ClientError) as error:
        return f"{error}\nComfyUI's log: {log}"
    except OSError as error:
        return f"Cannot write to {error.filename or out}: {error.strerror or error}."
    print(_summary(report, out))
    return 0


async def _run_all(url: str, folder: Path) -> dict[str, Run]:
    names = {"serial": "tiny_stock", "parallel": "tiny", "exact": "tiny_exact"}
    async with Client(url) as client:
        return {
            name: await _run(client, name, json.loads((folder / f"{file}.json").read_text()))
            for name, file in names.items()
        }


async def _run(client: Client, name: str, workflow: Workflow) -> Run:
    """Does a short warm-up, so that loading a model and starting workers are not timed, then the timed run."""
    await _follow(client, f"{name}, warm-up", with_sampling(workflow, seed=SEED + 1, steps=WARMUP_STEPS))
    result = await _follow(client, name, with_sampling(workflow, seed=SEED))
    (picture,) = result.files(find(workflow, "Save Image"), "images")
    (latent,) = result.files(find(workflow, "Save Latent"), "latents")
    plot_png = report = None
    if any(node["class_type"] == "CompactParallelReport" for node in workflow.values()):
        (plot,) = result.files(find(workflow, "Save Plot"), "images")
        plot_png = await client.fetch(plot)
        report = json.loads(result.text(find(workflow, "Report")))
    return Run(
        seconds=result.node_seconds(find(workflow, "KSampler")),
        png=await client.fetch(picture),
        latent=safetensors.torch.load(await client.fetch(latent))["latent_tensor"],
        plot_png=plot_png,
        report=report,
    )


async def _follow(client: Client, name: str, workflow: Workflow) -> Result:
    sampler = find(workflow, "KSampler")
    with tqdm(total=workflow[sampler]["inputs"]["steps"], desc=f"{name:18}", unit="step", file=sys.stdout) as bar:

        def show(event: Event) -> None:
            if isinstance(event, Progress) and event.node == sampler:
                bar.update(event.value - bar.n)
            elif isinstance(event, Executing) and bar.n == bar.total:
                bar.close()

        return await client.run(workflow, show)


def find(workflow: Workflow, title: str) -> str:
    """The id of the one node with this title."""
    (node,) = (node for node, content in workflow.items() if content["_meta"]["title"] == title)
    return node


def with_sampling(workflow: Workflow, **inputs: Any) -> Workflow:
    """A copy of the workflow with these inputs of its KSampler changed."""
    changed = copy.deepcopy(workflow)
    changed[find(changed, "KSampler")]["inputs"].update(inputs)
    return changed


def compare(serial: Run, parallel: Run, exact: Run) -> dict[str, Any]:
    """The demo's report: seconds are those of sampling alone, differences are relative to the serial run."""
    return {
        "seed": SEED,
        "serial_seconds": serial.seconds,
        "parallel_seconds": parallel.seconds,
        "exact_seconds": exact.seconds,
        "speedup": serial.seconds / parallel.seconds,
        "exact_speedup": serial.seconds / exact.seconds,
        "psnr_db": min(psnr(parallel.picture, serial.picture), HIGHEST_PSNR_DB),
        "ssim": ssim(parallel.picture, serial.picture),
        "relative_error": relative_error(parallel.latent, serial.latent),
        "exact_relative_error": relative_error(exact.latent, serial.latent),
        "run": parallel.report,
        "exact_run": exact.report,
    }


def _summary(report: dict[str, Any], out: Path) -> str:
    def line(name: str, seconds: float, note: str = "") -> str:
        return f"{name:22} {format_seconds(seconds):>7}  {note}".rstrip()

    codec = report["run"]["compression"]["codec"]
    exact = f"{report['exact_speedup']:.2f} times as fast; its latent differs by {report['exact_relative_error']:.1e}"
    lossy = f"{report['speedup']:.2f} times as fast; {report['psnr_db']:.1f} dB PSNR, {report['ssim']:.4f} SSIM"
    lines = [
        "",
        line("stock, one thread", report["serial_seconds"]),
        line("two workers, exact", report["exact_seconds"], exact),
        line(f"two workers, {codec}", report["parallel_seconds"], lossy),
        "",
        summarize(report["run"]),
        "",
        f"Pictures, plot and report.json are in {out}",
    ]
    return "\n".join(lines)
