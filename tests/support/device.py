"""The device of the tests' models, and the tolerance of exact results on it."""

import os

DEVICE = os.environ.get("COMPACT_PARALLEL_DEVICE", "cpu")
"""The device of ComfyUI and all workers: the CPU, or "cuda:0" as set by tests/gpu."""
EXACT = 1e-5 if DEVICE == "cpu" else 1e-4
"""Tolerance between float32 results computed in another order, relative to the largest value."""
