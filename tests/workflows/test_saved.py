"""Saved workflows stay what they were: browsers keep the values of a node's fields, and its links, by their order."""

from __future__ import annotations

import pytest
from authoring.graph import active_inputs

pytestmark = pytest.mark.server
STRATEGY = ["weights", "overlap", "mode"]
DEGREES = ["cfg_degree", "step_degree", "ulysses_degree", "ring_degree", "ring_exchange"]
COMPRESSION = ["predictor", "error_feedback", "warmup_calls", "keep_text_exact", "base_memory_gb", "mode"]
LOOK_AHEAD = ["look_ahead", "warmup_calls", "tail_calls", "predictor", "tolerance"]
XDIT = ["pipefusion_degree", "patches", "warmup_steps"]
SIZES = ["width", "height", "frames", "seconds", "fps"]
SAMPLE = ["prompt", "negative_prompt", "seed", "steps", "guidance", *SIZES, "scheduler", "arguments"]
ENGINE = ["folder", "path", "dtype", "engine"]
FIELDS = [
    ("CompactParallelModel", {}, ["on_unsupported"]),
    ("CompactParallelPool", {}, ["devices", "backend", "name", "start_timeout_s"]),
    ("CompactParallelStrategy", {"mode": "auto"}, STRATEGY),
    ("CompactParallelStrategy", {"mode": "manual"}, [*STRATEGY, *(f"mode.{name}" for name in DEGREES)]),
    ("CompactParallelCompression", {"mode": "auto"}, COMPRESSION),
    ("CompactParallelCompression", {"mode": "off"}, COMPRESSION),
    ("CompactParallelCompression", {"mode": "ratio"}, [*COMPRESSION, "mode.ratio"]),
    ("CompactParallelCompression", {"mode": "quality"}, [*COMPRESSION, "mode.max_relative_error"]),
    ("CompactParallelCompression", {"mode": "codec"}, [*COMPRESSION, "mode.codec", "mode.rank"]),
    ("CompactParallelStepReuse", {"mode": "off"}, ["mode"]),
    ("CompactParallelStepReuse", {"mode": "look_ahead"}, ["mode", *(f"mode.{name}" for name in LOOK_AHEAD)]),
    ("CompactParallelPipeline", {"engine": "diffusers"}, ENGINE),
    ("CompactParallelPipeline", {"engine": "xdit"}, [*ENGINE, *(f"engine.{name}" for name in XDIT)]),
    ("CompactParallelPipelineSample", {}, SAMPLE),
    ("CompactParallelReport", {}, []),
    ("CompactParallelCompare", {}, ["amplify"]),
    ("CompactParallelDemoPrompt", {}, ["shape", "colour", "background", "texture", "position"]),
]
"""The fields of each node as of version 0.1.0, in the order in which its workflows have their values."""
OUTPUTS = {
    "CompactParallelModel": ["MODEL"],
    "CompactParallelPool": ["PARALLEL_POOL"],
    "CompactParallelStrategy": ["PARALLEL_STRATEGY"],
    "CompactParallelCompression": ["PARALLEL_COMPRESSION"],
    "CompactParallelStepReuse": ["PARALLEL_STEP_REUSE"],
    "CompactParallelPipeline": ["PARALLEL_PIPELINE"],
    "CompactParallelPipelineSample": ["IMAGE", "VIDEO", "AUDIO"],
    "CompactParallelReport": ["COMFY_MATCHTYPE_V3", "IMAGE", "STRING", "STRING"],  # the first was LATENT, which it fits
    "CompactParallelCompare": ["IMAGE", "STRING"],
    "CompactParallelDemoPrompt": ["CONDITIONING"],
}


@pytest.mark.parametrize(("node", "chosen", "fields"), FIELDS)
def test_new_fields_come_last(object_info, node, chosen, fields):
    now = [one.name for one in active_inputs(object_info[node]["input"], chosen) if one.is_widget]
    assert now[: len(fields)] == fields


def test_new_outputs_come_last(object_info):
    for node, outputs in OUTPUTS.items():
        assert object_info[node]["output"][: len(outputs)] == outputs


def test_nothing_new_is_required(object_info):
    """A required input that a saved workflow does not have is refused even where it has a default."""
    required = {name: set(object_info[name]["input"].get("required", {})) for name in OUTPUTS}
    assert {name: inputs for name, inputs in required.items() if inputs} == {
        "CompactParallelModel": {"model"},
        "CompactParallelPipelineSample": {"pipeline"},
        "CompactParallelReport": {"latent"},
        "CompactParallelCompare": {"image", "reference"},
        "CompactParallelDemoPrompt": {"shape", "colour", "background", "texture", "position"},
    }
