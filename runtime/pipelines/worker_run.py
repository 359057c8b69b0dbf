"""One run of a pipeline on a worker: the pipeline itself, shared with the other ranks, or xDiT's version of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..compression.residual_wire import make_wire
from ..parallel.agreement import Agreement
from ..parallel.mesh import Degrees, Mesh
from ..parallel.prediction_log import to_payload
from ..pool.errors import Cancelled
from ..pool.orders import Orders
from ..pool.worker import JobControl
from ..report.ledger import Ledger
from .denoisers import DenoiserStrategy, Strategies
from .inputs import call_arguments
from .job import XDIT, PipelineJob
from .loading import takes_turns, with_scheduler
from .memory import PipelineMemory
from .outputs import output_type, result_of
from .planning import steps_of
from .previews import preview_of
from .progress import progress_payload
from .running import Run, Runs, StepCall, has_steps
from .steps.groups import PipelineGroups
from .truth import NO_STEPS, AheadTruth, Truth, Watcher

TURNS = (
    "The models of this pipeline do not fit on a device together, so they take turns there, which takes time; another "
    "dtype, or devices with more memory, would keep them there."
)


class WorkerRun:
    """One run of a pipeline on this rank."""

    def __init__(
        self, job: PipelineJob, pipe: Any, control: JobControl, orders: Orders, mesh: Mesh, device: torch.device
    ) -> None:
        """`pipe`: the pipeline of the job, loaded."""
        self._job, self._pipe = job, pipe
        self._control, self._orders, self._mesh, self._device = control, orders, mesh, device
        self._ledger = Ledger()
        if takes_turns(self._pipe):
            self._ledger.warn(TURNS)
        self._agreement = Agreement(PipelineMemory(device), self._ledger, control.cancelled)
        self._arguments = self._given()
        self._truth: Truth | None = None
        self._started = 0.0

    def run(self) -> tuple[bytes, dict]:
        """See PipelineHandler.run."""
        torch.manual_seed(self._job.inputs.seed)
        self._started = time.perf_counter()
        output = self._by_xdit() if self._job.pipeline.engine == XDIT else self._shared()
        seconds = time.perf_counter() - self._started
        result = b""
        if self._orders.rank == 0:
            result = result_of(self._pipe, output, self._job.inputs.fps).to_bytes()
        accepted = self._truth.accepted if isinstance(self._truth, AheadTruth) else None
        return result, {**self._ledger.to_json(), "sampling_seconds": seconds, "accepted": accepted}

    def _shared(self) -> Any:
        """Runs the pipeline itself, whose denoisers and steps the ranks share."""
        pipe = self._scheduled()
        with Strategies() as strategies:
            runs = Runs(pipe, self._arguments, self._device)
            output = runs.run(partial(self._make, strategies, pipe, runs))
            self._agreement.end()
        return output

    def _by_xdit(self) -> Any:
        """Runs xfuser's version of the pipeline."""
        from .xdit.engine import xdit_pipeline

        job, ledger = self._job, self._ledger
        compressed = job.plan.compression.enabled and job.plan.degrees.sequence > 1
        wire = make_wire(job.plan.compression, ledger, expected_calls=self._steps) if compressed else None
        xdit_pipeline_on = partial(xdit_pipeline, rank=self._orders.rank, world=self._orders.world)
        with xdit_pipeline_on(
            self._scheduled(),
            job.pipeline.folder,
            job.pipeline.xdit,
            job.plan.degrees,
            self._arguments,
            wire=wire,
            ledger=ledger,
            on_step=self._stepped,
        ) as run:
            return run(**self._arguments)

    def _stepped(self, step: int) -> None:
        """xDiT has ended a step. Raises Cancelled."""
        if self._orders.rank == 0 and self._control.cancelled():
            raise Cancelled("The run was cancelled.")
        if self._orders.rank == 0:
            self._report(step, None)

    def _given(self) -> dict[str, Any]:
        """The arguments of the pipeline's __call__."""
        inputs = self._job.inputs
        given = call_arguments(self._pipe, inputs, self._job.image)
        # xDiT's last rank makes the result of the first one
        wanted = output_type(self._pipe, wanted=self._orders.rank == 0 or self._job.pipeline.engine == XDIT)
        return {**given, **wanted, "generator": torch.Generator().manual_seed(inputs.seed)}

    def _scheduled(self) -> Any:
        """The pipeline with the scheduler that was chosen; the loaded one keeps its own."""
        return with_scheduler(self._pipe, self._job.inputs.scheduler)

    def _make(self, strategies: Strategies, pipe: Any, runs: Runs, generator: torch.Generator | None) -> Run:
        job, ledger = self._job, self._ledger
        ahead = job.plan.ahead.config
        apart = self._strategy(pipe, job.plan.degrees)
        common = (strategies, self._agreement, ledger, self._watch)
        if ahead.enabled and has_steps(pipe):
            alone = self._strategy(pipe, job.plan.alone)
            groups = partial(self._groups, partial(strategies.use, alone), partial(strategies.use, apart))
            self._truth = AheadTruth(*common, runs, ahead, groups, generator, job.known)
        else:
            if ahead.enabled:
                ledger.warn(NO_STEPS)
            strategies.use(apart)
            self._truth = Truth(*common, job.known)
        return self._truth

    def _strategy(self, pipe: Any, degrees: Degrees) -> DenoiserStrategy:
        wire = partial(make_wire, self._job.plan.compression, self._ledger, expected_calls=self._steps)
        return DenoiserStrategy(pipe.components, degrees, self._mesh.axes(degrees), wire, self._ledger)

    def _groups(self, alone: Callable[[], None], apart: Callable[[], None], evaluate: Callable) -> PipelineGroups:
        plan = self._job.plan
        return PipelineGroups(
            evaluate,
            self._mesh.axes(plan.degrees)["step"],
            self._agreement,
            alone,
            apart,
            lambda levels, extra: None,
            self._ledger,
            look_ahead=plan.ahead.config.look_ahead,
            batches=plan.ahead.batches,
        )

    @property
    def _steps(self) -> int:
        return steps_of(type(self._pipe), self._job.inputs)

    @property
    def _watch(self) -> Watcher:
        return self._tell if self._orders.rank == 0 else lambda *told: None

    def _tell(self, step: int, call: StepCall, prediction: Tensor) -> None:
        if step < len(self._job.known):
            return
        self._control.predicted(step, to_payload(prediction))
        self._report(step, preview_of(self._pipe, call, prediction, self._arguments))

    def _report(self, step: int, shown: tuple[str, Tensor] | None) -> None:
        sent, uncompressed = self._ledger.totals()
        figures: dict[str, Any] = {
            "seconds": time.perf_counter() - self._started,
            "bytes_sent": sent,
            "bytes_uncompressed": uncompressed,
        }
        if isinstance(self._truth, AheadTruth):
            accepted = self._truth.accepted
            figures |= {"rounds": len(accepted), "ahead": sum(accepted) - len(accepted)}
        self._control.progress(step, self._steps, progress_payload(figures, shown))
