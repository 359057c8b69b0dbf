"""Records the card and its software, its copy bandwidth and bf16 FLOPS, and the time of a codec's first kernel."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version


def run(tell: Callable) -> None:
    import torch

    tell(python=platform.python_version(), torch=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip)
    tell(cores=os.cpu_count(), triton=version("triton"))
    card = torch.cuda.get_device_properties(0)
    tell(card=card.name, memory=card.total_memory, multiprocessors=card.multi_processor_count)
    import comfy.model_management as management
    from comfyui_version import __version__

    tell(comfyui=__version__, vram_state=str(management.vram_state), attention=_attention())
    tell(driver=_driver())

    import kernels as bench

    tell(copy_bytes_per_second=bench.copy_bandwidth())
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    tell(bf16_flops=2 * 8192**3 / bench.graph_seconds(lambda: a @ b))
    from compact_parallel.runtime.planner.codec_speed import codec_seconds_per_value

    started = time.perf_counter()
    first = codec_seconds_per_value(torch.device("cuda", 0))
    tell(first_probe_seconds=time.perf_counter() - started)
    started = time.perf_counter()
    second = codec_seconds_per_value(torch.device("cuda", 0))
    tell(second_probe_seconds=time.perf_counter() - started)
    tell(nanoseconds_per_value={name: [1e9 * first[name], 1e9 * second[name]] for name in first})


def _attention() -> str:
    from comfy.ldm.modules.attention import optimized_attention

    return getattr(optimized_attention, "__name__", str(optimized_attention))


def _driver() -> str:
    import subprocess

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20).stdout.strip()
