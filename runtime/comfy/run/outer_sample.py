"""The OUTER_SAMPLE wrapper that Parallel Model puts on a MODEL: it runs the sampling job on the pool and waits."""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import comfy.model_management
import comfy.options
import torch
from comfy.patcher_extension import WrappersMP

from ...config import ParallelConfig
from ...parallel.resuming import run_to_its_end
from ...planner.sharing import NothingToShare
from ...pool.errors import Stopped
from ...pool.pool import Pool
from ...pool.registry import pools
from ...pool.worker_group import Entry
from ...report.ledger import Ledger, run_report
from ...report.live import LiveRun, live
from ..shipping.pickling import Local
from ..shipping.sampling_job import WRAPPER_KEY, Arguments, Result, SamplingJob, random_state
from .choice import Rearranged, choose
from .devices import devices_of
from .fallback import TRAINING, needs_gradients, told
from .parking import make_room, show_weights
from .progress import ProgressRelay, watched
from .reports import keep

log = logging.getLogger(__name__)

HANDLER = "runtime.comfy.run.worker_entry:sampling_handler"


def pool_for(config: ParallelConfig, devices: tuple[str, ...]) -> Pool:
    """The pool of this config's name; it starts with the first run. Its workers get ComfyUI's command-line options."""
    command_line = tuple(sys.argv) if comfy.options.args_parsing else ("main.py",)
    return pools().get(config.pool, devices, Entry(HANDLER, command_line, {}))


def parallelised(patcher: Any, config: ParallelConfig) -> Any:
    """A clone of a MODEL that samples on the pool. If the MODEL has a config already, the new one replaces it."""
    clone = patcher.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, ParallelSampling(config))
    return clone


class ParallelSampling(Local):
    """The wrapper: samples on the pool what ComfyUI was about to sample in this process."""

    def __init__(self, config: ParallelConfig) -> None:
        self.config = config

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The wrapper: same arguments and result as the guider's outer_sample."""
        devices = devices_of(self.config)
        model = type(executor.class_obj.model_patcher.model).__name__
        run = LiveRun(self.config.pool.name, len(devices), model)
        with live().run(run, comfy.model_management.InterruptProcessingException):
            return self._run(run, executor, devices, *args, **kwargs)

    def _run(self, run: LiveRun, executor: Any, devices: tuple[str, ...], *args: Any, **kwargs: Any) -> torch.Tensor:
        arguments = Arguments(*args, **kwargs)
        try:
            if needs_gradients(executor.class_obj, arguments):
                raise NothingToShare(TRAINING)
            try:
                return self._sample(run, executor, devices, arguments)
            except Rearranged:
                return self._sample(run, executor, devices, arguments)
        except NothingToShare as nothing:
            reason = str(nothing)
        except Stopped:  # a user who stops the workers does not want the run to go on elsewhere
            raise
        except Exception as error:
            if self.config.on_unsupported == "error":
                raise
            log.info("What ComfyUI is to do on one device:", exc_info=error)
            reason = told(error)
        return self._on_one_device(run, executor, reason, *args, **kwargs)

    def _on_one_device(self, run: LiveRun, executor: Any, reason: str, *args: Any, **kwargs: Any) -> torch.Tensor:
        log.warning("Parallel Model runs on one device. %s", reason)
        arguments = watched(Arguments(*args, **kwargs), run)
        started = time.perf_counter()
        samples = executor(*arguments[:-1], latent_shapes=arguments.latent_shapes)
        seconds = time.perf_counter() - started
        # The sampling nodes move the samples there next, and the report is found by the tensor they return.
        samples = samples.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())
        patcher = executor.class_obj.model_patcher
        report = run_report(
            [Ledger().to_json()],
            run_id=uuid.uuid4().hex,
            model=type(patcher.model).__name__,
            devices=[str(patcher.load_device)],
            strategy=self.config.strategy.to_json(),
            compression=self.config.compression.to_json(),
            seconds=seconds,
            sampling_seconds=seconds,
            fallbacks=[reason],
        )
        keep(run, report, samples)
        return samples

    def _sample(self, run: LiveRun, executor: Any, devices: tuple[str, ...], arguments: Arguments) -> torch.Tensor:
        started = time.perf_counter()
        guider = executor.class_obj
        choice = choose(self.config, len(devices), guider, arguments)
        devices = devices[: choice.plan.degrees.world]
        wrappers = executor.wrappers[executor.idx + 1 :]
        pool = pool_for(self.config, devices)
        choice.expect_failure(pool)
        check_interrupt = comfy.model_management.throw_exception_if_processing_interrupted
        device = guider.model_patcher.load_device
        with (
            choice.noting_failures(pool),
            pool.reserve(check_interrupt, partial(make_room, pool, guider.model_patcher, choice.plan.memory)),
            ProgressRelay(arguments, run, device) as progress,
        ):
            starts = pool.starts
            plan = choice.with_link(pool)
            job = SamplingJob(guider, arguments, wrappers, plan, random_state(), resumable=choice.facts.resumable)
            try:
                result, resumed = run_to_its_end(
                    pool, partial(_packed, job, pool), progress, check_interrupt, resumable=job.resumable
                )
            finally:
                show_weights(pool)
            returned = Result.from_bytes(result.result)
            job.take_back(returned, pool.store)
        samples = returned.samples
        report = run_report(
            result.ledgers,
            run_id=uuid.uuid4().hex,
            model=type(guider.model_patcher.model).__name__,
            devices=devices,
            strategy=plan.strategy_report(),
            compression=plan.compression.to_json(),
            step_reuse=plan.ahead.report(),
            accepted=result.ledgers[0]["accepted"],
            warnings=[*pool.notices, *choice.learn(result.ledgers)],
            seconds=time.perf_counter() - started,
            sampling_seconds=max(ledger["sampling_seconds"] for ledger in result.ledgers),
            restarts=pool.starts - starts,
            resumed_calls=resumed,
        )
        keep(run, report, samples)
        return samples


def _packed(job: SamplingJob, pool: Pool, known: Sequence[torch.Tensor]) -> bytes:
    """The job's payload, with the predictions that are known; its tensors go to the store of the pool as it is now."""
    job.known = tuple(known)
    return job.pack(pool.store)
