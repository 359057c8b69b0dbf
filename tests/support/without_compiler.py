"""The handler of a worker whose Triton could not compile when it started."""

from __future__ import annotations

from ...runtime.comfy.run import worker_entry
from ...runtime.compression.kernels.compiler import compiler
from ...runtime.pool.orders import Orders
from ...runtime.pool.worker import JobHandler

REASON = "Failed to find C compiler"


def sampling_handler(orders: Orders) -> JobHandler:
    """The handler of every worker, after a trial that failed."""
    compiler().refused = REASON
    return worker_entry.sampling_handler(orders)
