"""The handler of a worker: gives each job to the part that knows its kind, ComfyUI's sampling or pipelines."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...pipelines.job import PREFIX
from ...pool.orders import Orders
from ...pool.worker import JobControl, JobHandler
from .sampling_handler import SamplingHandler


class _Prepared(NamedTuple):
    handler: JobHandler
    job: Any


class WorkerHandler:
    """See pool.worker.JobHandler. Only models of one kind are kept: those of the latest job."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._sampling = SamplingHandler(orders)
        self._pipelines: Any = None  # made for the first pipeline, as diffusers takes time and memory

    def probe(self) -> dict:
        """See pool.worker.JobHandler."""
        return self._sampling.probe()

    def prepare(self, payload: bytes) -> _Prepared:
        """See pool.worker.JobHandler."""
        if not payload.startswith(PREFIX):
            if self._pipelines is not None:
                self._pipelines.park()
            return _Prepared(self._sampling, self._sampling.prepare(payload))
        self._sampling.park()
        if self._pipelines is None:
            from ...pipelines.handler import PipelineHandler

            self._pipelines = PipelineHandler(self._orders)
        return _Prepared(self._pipelines, self._pipelines.prepare(payload))

    def run(self, job: _Prepared, control: JobControl) -> tuple[bytes, dict]:
        """See pool.worker.JobHandler."""
        return job.handler.run(job.job, control)

    def renew(self) -> None:
        """See pool.worker.JobHandler."""
        for handler in self._handlers():
            handler.renew()

    def park(self, nbytes: int | None = None) -> int:
        """See pool.worker.JobHandler. A pipeline is dropped whole."""
        if self._pipelines is not None:
            self._pipelines.park(nbytes)
        return self._sampling.park(nbytes)

    def tidy(self) -> None:
        """See pool.worker.JobHandler."""
        for handler in self._handlers():
            handler.tidy()

    def about(self) -> dict:
        """See pool.worker.JobHandler."""
        return self._sampling.about()

    def _handlers(self) -> list[Any]:
        return [self._sampling, *([self._pipelines] if self._pipelines is not None else [])]
