"""The device of the tests' models, and the tolerance of exact results on it."""

import os

DEVICE = os.environ.get("COMPACT_PARALLEL_DEVICE", "cpu")
"""The device of ComfyUI and all workers: the CPU, or "cuda:0" as set by tests/gpu."""
CARDS = int(os.environ.get("COMPACT_PARALLEL_CARDS", "1"))
"""Over how many cards tests/gpu spreads the workers."""
EXACT = 1e-5 if DEVICE == "cpu" else 1e-4
"""Tolerance between float32 results computed in another order, relative to the largest value."""


def devices(workers: int) -> tuple[str, ...]:
    """The device of each worker."""
    return tuple(f"cuda:{worker % CARDS}" for worker in range(workers)) if CARDS > 1 else (DEVICE,) * workers
