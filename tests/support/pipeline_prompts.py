"""Prompts with Parallel Pipeline and Sample Pipeline for a real server, in API form; the title of a node is its id."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

POOL = "pipelines"
SEEDS = itertools.count(20_000)
SAVES = {
    "SaveImage": {"images": ["sample", 0]},
    "SaveVideo": {"video": ["sample", 1], "format": "auto", "codec": "auto"},
    "SaveAudio": {"audio": ["sample", 2]},
}
LARGE = {"width": 128, "height": 128}
TEXT = {"max_sequence_length": 16}
INPUTS = {
    "sd3": (LARGE, TEXT),
    "flux": (LARGE, TEXT),
    "pixart": (LARGE, TEXT | {"clean_caption": False, "use_resolution_binning": False}),
    "wan": ({"width": 64, "height": 64, "frames": 9}, TEXT),
    "audioldm2": ({"seconds": 0.64}, {}),
}
"""By the name of a tiny pipeline: the inputs of Sample Pipeline for a small result, and further arguments."""

RING = ("CompactParallelStrategy", {"mode": "manual", "mode.ring_degree": 2})
LOOK_AHEAD = ("CompactParallelStepReuse", {"mode": "look_ahead"})
WAYS = {
    "tokens": {"strategy": RING},
    "Step Reuse": {"step_reuse": LOOK_AHEAD},
    "xDiT": {"engine": "xdit"},
}
"""Ways to run a pipeline: inputs of Parallel Pipeline, where (class, inputs) is a node of its own."""


def prompt(folder: Path, name: str, *, saves=("SaveImage",), steps=4, pool=POOL, way=None, arguments=None, **inputs):
    """A prompt that runs the tiny pipeline `name`, which is in `folder`. `arguments` and `inputs` change the usual."""
    usual, further = INPUTS[name]
    said = arguments if isinstance(arguments, str) else json.dumps(further | (arguments or {}))  # a string as it is
    sample = {"pipeline": ["pipe", 0], "prompt": "a red cat", "steps": steps, "seed": next(SEEDS), "arguments": said}
    made = {
        "pool": ("CompactParallelPool", {"devices": "cpu,cpu", "name": pool}),
        "sample": ("CompactParallelPipelineSample", sample | usual | inputs),
        **{save: (save, {"filename_prefix": name, **SAVES[save]}) for save in saves},
    }
    given = {"path": str(folder / name), "dtype": "float32", "pool": ["pool", 0]}
    for key, value in (way or {}).items():
        is_node = isinstance(value, tuple)
        made |= {key: value} if is_node else {}
        given[key] = [key, 0] if is_node else value
    return with_nodes({}, **made, pipe=("CompactParallelPipeline", given))


def with_nodes(made: dict, **nodes: tuple[str, dict]) -> dict:
    """A prompt with further nodes: id=(class, inputs)."""
    more = {
        name: {"class_type": kind, "inputs": given, "_meta": {"title": name}} for name, (kind, given) in nodes.items()
    }
    return made | more
