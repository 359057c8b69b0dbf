"""The types of the links between our nodes. What travels on them are the config dataclasses of runtime/config.py."""

from comfy_api.latest import io

ParallelPool = io.Custom("PARALLEL_POOL")
ParallelStrategy = io.Custom("PARALLEL_STRATEGY")
ParallelCompression = io.Custom("PARALLEL_COMPRESSION")

CATEGORY = "parallel"
