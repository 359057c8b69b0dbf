"""Runs a pipeline on the pool, from ComfyUI's process: plans it, has the workers load and run it, and waits."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.model_management
from torch import Tensor

from ...config import ParallelConfig
from ...parallel.resuming import run_to_its_end
from ...pipelines.folder import FolderFacts, inspect_folder
from ...pipelines.inputs import PipelineInputs, keyword_arguments
from ...pipelines.job import PipelineChoice, PipelineJob, PipelineResult
from ...pipelines.outline import check_run
from ...pipelines.planning import class_of, describe, plan_pipeline, workers_of
from ...planner.facts import JobFacts
from ...planner.link import Link
from ...planner.run_plan import RunPlan
from ...pool.registry import pools
from ...report.ledger import run_report
from ...report.live import LiveRun, live
from .devices import devices_of, remarks
from .outer_sample import pool_for
from .parking import make_room_for, show_weights
from .pipeline_progress import PipelineProgress
from .reports import keep


class PipelineRun:
    """A pipeline with the settings of its node, to be sampled."""

    def __init__(self, choice: PipelineChoice, config: ParallelConfig) -> None:
        self.choice, self.config = choice, config

    def sample(self, inputs: PipelineInputs, image: Tensor | None) -> PipelineResult:
        """Runs the pipeline. `image`: (B, H, W, C), 0 to 1.

        Raises ConfigError or Unsupported before anything starts, PoolError with the cause afterwards.
        """
        folder = inspect_folder(Path(self.choice.folder))
        keyword_arguments(class_of(folder), inputs, image)  # reports a wrong input before anything starts
        devices = devices_of(self.config)
        facts = describe(self.choice, folder, inputs)
        run = LiveRun(self.config.pool.name, len(devices), folder.pipeline)
        link = _known_link(self.config)
        with live().run(run, comfy.model_management.InterruptProcessingException):
            while True:
                plan = plan_pipeline(self.choice, self.config, facts, len(devices), link)
                check_run(self.choice, folder, inputs, image, plan)
                try:
                    return self._try(run, devices, plan, folder, facts, inputs, image)
                except _Rearranged as measured:
                    link = measured.link

    def _try(
        self,
        run: LiveRun,
        devices: tuple[str, ...],
        plan: RunPlan,
        folder: FolderFacts,
        facts: JobFacts,
        inputs: PipelineInputs,
        image: Tensor | None,
    ) -> PipelineResult:
        """One try, on the workers of the plan. Raises _Rearranged if their link, now measured, asks for others."""
        started = time.perf_counter()
        used = devices[: workers_of(self.choice, plan)]
        pool = pool_for(self.config, used)
        check_interrupt = comfy.model_management.throw_exception_if_processing_interrupted
        room = partial(make_room_for, pool, folder.nbytes, plan.memory)
        with pool.reserve(check_interrupt, room), PipelineProgress(run, facts.sampler.calls) as progress:
            starts = pool.starts
            if pool.link:
                link = Link.from_json(pool.link)
                plan = plan_pipeline(self.choice, self.config, facts, len(devices), link)
                if workers_of(self.choice, plan) != len(used):
                    raise _Rearranged(link)
            job = PipelineJob(self.choice, inputs, plan, image)
            try:
                answer, resumed = run_to_its_end(
                    pool, lambda known: replace(job, known=known).to_bytes(), progress, check_interrupt, resumable=True
                )
            finally:
                show_weights(pool)
        result = PipelineResult.from_bytes(answer.result)
        report = run_report(
            answer.ledgers,
            run_id=uuid.uuid4().hex,
            model=folder.pipeline,
            devices=used,
            strategy=plan.strategy_report(),
            compression=plan.compression.to_json(),
            step_reuse=plan.ahead.report(),
            accepted=answer.ledgers[0]["accepted"],
            warnings=[*pool.notices, *plan.warnings, *plan.ahead.warnings, *remarks(self.config)],
            seconds=time.perf_counter() - started,
            sampling_seconds=max(ledger["sampling_seconds"] for ledger in answer.ledgers),
            restarts=pool.starts - starts,
            resumed_calls=resumed,
        )
        keep(run, report, result.values)
        return result


class _Rearranged(Exception):
    """The link between the workers, now that it is measured, asks for another number of them."""

    def __init__(self, link: Link) -> None:
        self.link = link
        super().__init__()


def _known_link(config: ParallelConfig) -> Link | None:
    """The link between the workers of this pool, if it was measured."""
    pool = pools().find(config.pool.name)
    known = pool.link if pool is not None and pool.config == config.pool else None
    return Link.from_json(known) if known else None
