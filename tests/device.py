"""Where the models of the tests are."""

import os

DEVICE = os.environ.get("COMPACT_PARALLEL_DEVICE", "cpu")
"""With "cuda:0", which tests/gpu sets, ComfyUI and all workers use that card."""
EXACT = 1e-5 if DEVICE == "cpu" else 1e-4
"""How far results of float32 in another order may lie from each other, relative to the largest value."""
