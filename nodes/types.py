"""The link types between the nodes of this pack. Their values are the config dataclasses of runtime/config.py."""

from comfy_api.latest import io

ParallelPool = io.Custom("PARALLEL_POOL")
ParallelStrategy = io.Custom("PARALLEL_STRATEGY")
ParallelCompression = io.Custom("PARALLEL_COMPRESSION")
ParallelStepReuse = io.Custom("PARALLEL_STEP_REUSE")

CATEGORY = "parallel"


def chosen(mode: dict | None, default: str) -> dict:
    """The values of a DynamicCombo called mode. ComfyUI gives None for inputs that a saved workflow does not have."""
    return {name: value for name, value in (mode or {"mode": default}).items() if value is not None}
