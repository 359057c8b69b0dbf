"""Runs pipelines in a worker; see pool.worker.JobHandler."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..attention.unsupported import MetAlone, Unsupported
from ..config import ConfigError
from ..parallel.mesh import Mesh
from ..pool.errors import Refused, RefusedAlone
from ..pool.orders import Orders
from ..pool.worker import JobControl
from .job import PipelineJob
from .loading import load
from .planning import told
from .worker_run import WorkerRun


class Prepared(NamedTuple):
    """A job with its pipeline, loaded."""

    job: PipelineJob
    pipe: Any


class PipelineHandler:
    """Loads and runs pipelines on one worker. It keeps the pipeline that was used last."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._device = torch.device(orders.device)
        self._mesh = Mesh(orders.rank, orders.world)
        self._loaded: dict[tuple[str, str], Any] = {}

    def prepare(self, payload: bytes) -> Prepared:
        """Loads the pipeline, unless it is loaded. Raises Refused for a folder that cannot be used."""
        job = PipelineJob.from_bytes(payload)
        key = job.pipeline.folder, job.pipeline.dtype
        if key not in self._loaded:
            self._loaded.clear()
            gc.collect()
            with _refusing():
                self._loaded[key] = load(Path(job.pipeline.folder), job.pipeline.dtype, self._device)
        return Prepared(job, self._loaded[key])

    def run(self, prepared: Prepared, control: JobControl) -> tuple[bytes, dict]:
        """Runs the pipeline. Returns a `job.PipelineResult` as bytes (b"" on other ranks than 0) and the ledger."""
        with _refusing():
            run = WorkerRun(*prepared, control, self._orders, self._mesh, self._device)
            return run.run()

    def renew(self) -> None:
        """After a job that the ranks did not end together: a new mesh, and pipelines loaded anew."""
        self._mesh = Mesh(self._orders.rank, self._orders.world)
        self.park()

    def park(self, nbytes: int | None = None) -> int:
        """Drops the pipeline, which the next job maps from its files again. Returns the bytes that stay allocated."""
        self._loaded.clear()
        self.tidy()
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def tidy(self) -> None:
        """Frees what a job left in reference cycles, and unused memory of the device."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Errors with a sentence for the user end the job on all ranks alike."""
    try:
        yield
    except MetAlone as error:
        raise RefusedAlone(told(error)) from error
    except (Unsupported, ConfigError) as error:
        raise Refused(told(error)) from error
