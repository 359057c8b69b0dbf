"""Runs ComfyUI's real main.py on the card, with its memory management: stock, Parallel Model and VAE decode in turn."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def run(tell: Callable) -> None:
    import live_server
    from compact_parallel.workflows.comfy_server import ComfyServer
    from device import DEVICE

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "web").mkdir()
        (folder / "web" / "index.html").write_text("none")
        arguments = ("--front-end-root", str(folder / "web"), "--fp32-unet", *(("--cpu",) if DEVICE == "cpu" else ()))
        server = ComfyServer(
            sys.executable, Path(os.environ["COMFYUI_PATH"]), live_server.ROOT, folder, arguments=arguments
        )
        try:
            started = time.monotonic()
            server.start()
            tell(start_seconds=time.monotonic() - started)
            _use(live_server, server, DEVICE, tell)
        finally:
            server.stop()
            lines = server.log.read_text(errors="replace").splitlines()
            print("\n".join(lines))
            tell(log=[line for line in lines if "DynamicVRAM" in line or "aimdo" in line or "VRAM" in line][:12])


def _use(live_server, server, device: str, tell: Callable) -> None:
    talk = live_server.Talk(server)
    runs = []
    for turn in range(3):
        row = {}
        latents = {}
        for workflow in ("tiny_stock", "tiny_exact", "tiny", "tiny_step_reuse"):
            made = live_server.workflow(workflow, KSampler__seed=100 + turn, KSampler__steps=12)
            for each in made.values():
                if each["class_type"] == "CompactParallelPool":
                    each["inputs"]["devices"] = f"{device}*2"
            started = time.monotonic()
            latents[workflow] = talk.latent(made)
            row[f"{workflow} seconds"] = time.monotonic() - started
            stock = latents["tiny_stock"]
            row[workflow] = float((latents[workflow] - stock).abs().max() / stock.abs().max())
        runs.append(row)
        tell(runs=runs)
    tell(report=talk.server.get("/parallel/runs/latest"), pools=json.loads(json.dumps(talk.pools())))
