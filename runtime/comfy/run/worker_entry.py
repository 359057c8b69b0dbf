"""The entry point of a worker: makes its job handler, or one that refuses every job if ComfyUI does not fit.

First it enables ComfyUI's command-line options, which ComfyUI reads when it is imported.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import comfy.options

from ...pool.errors import Refused
from ...pool.orders import Orders
from ...pool.worker import JobControl, JobHandler
from ..fits import Misfit, against, misfits
from ..seam import EVERYTHING

log = logging.getLogger(__name__)


def sampling_handler(orders: Orders) -> JobHandler:
    """The handler that samples with ComfyUI, under the parent's command-line options (they are in sys.argv)."""
    if orders.device == "cpu" and "--cpu" not in sys.argv:
        sys.argv.append("--cpu")
    comfy.options.enable_args_parsing()
    evaluate_eagerly(importlib.import_module("comfy.cli_args").args)
    if orders.rank == 0:
        for misfit in misfits():
            log.warning("%s", misfit.sentence)
    if misfit := against(EVERYTHING):
        return _Refusing(misfit)
    return importlib.import_module(".worker_handler", __package__).WorkerHandler(orders)


def evaluate_eagerly(args: Any) -> None:
    """Switch off ComfyUI's compiler (after 0.30): what it replays has no exchange between workers."""
    for option in ("disable_cuda_graphs", "disable_comfy_compiler"):
        if hasattr(args, option):
            setattr(args, option, True)


class _Refusing:
    """A handler that refuses every job, used if the worker's ComfyUI is unfit to sample; see pool.worker.JobHandler."""

    def __init__(self, misfit: Misfit) -> None:
        self._misfit = misfit

    def prepare(self, payload: bytes) -> Any:
        """Raises Refused."""
        raise Refused(self._misfit.sentence)

    def run(self, job: Any, control: JobControl) -> tuple[bytes, dict]:
        """Never called: no job is prepared."""
        raise Refused(self._misfit.sentence)

    def park(self, nbytes: int | None = None) -> int:
        """Returns 0: nothing is held on the device."""
        return 0

    def about(self) -> dict:
        """Like that of a worker that has done nothing yet."""
        return {"pid": os.getpid(), "device_bytes": 0}
