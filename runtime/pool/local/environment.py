"""The environment variables of a worker process on this machine."""

from __future__ import annotations

import os
import sys


def _cores() -> int:
    """The number of cores this process may use, if the system tells; else the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(device: str, cpu_workers: int) -> dict[str, str]:
    """The environment of a worker: its share of the cores, loopback only, NCCL first and no allocator that breaks it.

    `cpu_workers`: how many workers share the machine's cores.
    """
    environment = dict(os.environ)
    # Windows would give the worker's log an encoding in which many texts cannot be printed.
    environment.setdefault("PYTHONIOENCODING", "utf-8:backslashreplace")
    if device == "cpu":
        threads = str(max(1, _cores() // cpu_workers))
        environment.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    # NCCL runs out of memory beside the asynchronous allocator that ComfyUI may choose for itself.
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        kept = [item for item in environment.get(name, "").split(",") if item and "cudaMallocAsync" not in item]
        if kept:
            environment[name] = ",".join(kept)
        else:
            environment.pop(name, None)
    # What is sent starts at once, not behind the kernels of the attention that is to hide it.
    environment.setdefault("TORCH_NCCL_HIGH_PRIORITY", "1")
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        environment.setdefault("NCCL_SOCKET_IFNAME", "lo")
    return environment
