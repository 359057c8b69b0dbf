"""The link types between the nodes of this pack. Their values are the config dataclasses of runtime/config.py."""

from comfy_api.latest import io

ParallelPool = io.Custom("PARALLEL_POOL")
ParallelStrategy = io.Custom("PARALLEL_STRATEGY")
ParallelCompression = io.Custom("PARALLEL_COMPRESSION")
ParallelStepReuse = io.Custom("PARALLEL_STEP_REUSE")
ParallelPipeline = io.Custom("PARALLEL_PIPELINE")

CATEGORY = "parallel"


def chosen(mode: dict | None, default: str, name: str = "mode") -> dict:
    """The values of a DynamicCombo called `name`. ComfyUI gives None for inputs that a saved workflow does not have."""
    return {key: value for key, value in (mode or {name: default}).items() if value is not None}
