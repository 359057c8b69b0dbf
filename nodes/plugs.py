"""The optional inputs by which other nodes of this pack are plugged into one that uses the pool."""

from comfy_api.latest import io

from .types import ParallelCompression, ParallelPool, ParallelStepReuse, ParallelStrategy


def plugs() -> list[io.Input]:
    """Pool, strategy, compression and step reuse, in this order."""
    return [
        ParallelPool.Input(
            "pool",
            optional=True,
            tooltip="Which worker processes to use. Default: one per CUDA device (see Settings > Parallel).",
        ),
        ParallelStrategy.Input(
            "strategy", optional=True, tooltip="How the workers share the work. Default: chosen for the job."
        ),
        ParallelCompression.Input(
            "compression",
            optional=True,
            tooltip="How to compress what the workers send each other. Default: nothing is compressed, exact.",
        ),
        ParallelStepReuse.Input(
            "step_reuse",
            optional=True,
            tooltip="Whether neighbouring steps are computed at the same time. Default: one after the other.",
        ),
    ]
