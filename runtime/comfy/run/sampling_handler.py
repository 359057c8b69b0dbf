"""Runs sampling jobs in a worker: ComfyUI's own sampler with the job's parallelism put on as wrappers."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import safetensors.torch
import torch
from comfy.patcher_extension import WrappersMP

from ...attention.unsupported import MetAlone, Unsupported
from ...compression.kernels.compiler import compiler
from ...compression.residual_wire import make_wire
from ...parallel.agreement import Agreement
from ...parallel.mesh import Degrees, Mesh
from ...parallel.prediction_log import to_payload
from ...parallel.resume import Predictions, Tell
from ...parallel.step.step_groups import StepGroups, as_one_batch
from ...planner.capabilities import ROWS, TOKENS, refusal
from ...planner.check_plan import call_to_check, explained_by_rounding
from ...planner.codec_speed import codec_seconds_per_value
from ...planner.link import Link
from ...pool.errors import Refused, RefusedAlone
from ...pool.orders import Orders
from ...pool.probe import measure_link, slowest
from ...pool.store import open_store
from ...pool.worker import JobControl
from ...report.ledger import Ledger
from ...sharding.failures import refusing_own_failures
from ...sharding.plans import splits_rows
from ..fits import lost, misfits
from ..shipping.agreed_changes import agreed_changes
from ..shipping.import_finders import install_finders
from ..shipping.sampling_job import WRAPPER_KEY, JobRebuilder, Result, SamplingJob, random_state, set_random_state
from ..shipping.state_changes import Watch
from ..wrappers.active_strategy import ActiveStrategy, Strategies
from ..wrappers.free_memory import FreeMemory
from ..wrappers.hook_keyframes import Schedules
from ..wrappers.reserved_memory import ReservedMemory
from ..wrappers.sampler_function import one_by_one
from ..wrappers.self_checking import SelfChecking
from ..wrappers.step_sampling import StepParallel
from .weights import drop_models, free_weights, keep_patches


class SamplingHandler:
    """Rebuilds and runs sampling jobs on one worker; see pool.worker.JobHandler."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._device = comfy.model_management.get_torch_device()
        comfy.model_management.MAX_PINNED_MEMORY /= orders.world + 1  # the machine's, for the workers and ComfyUI
        self._store = open_store(orders.store)
        self._rebuilder = JobRebuilder(install_finders(), self._store, self._device)
        self._mesh = Mesh(orders.rank, orders.world)

    def probe(self) -> dict:
        """Measure the link between the workers, and the cost of compression on their devices. Collective."""
        if self._device.type == "cuda":
            compiler().try_on(self._device)
        speed = measure_link(self._device)
        cards = self._orders.backend if self._device.type == "cuda" else ""
        return Link(*speed, slowest(codec_seconds_per_value(self._device)), cards).to_json()

    def prepare(self, payload: bytes) -> SamplingJob:
        """Rebuild the job; loads the model from its file unless this worker has it already."""
        with torch.inference_mode():
            job = self._rebuilder.rebuild(payload)
        kind = ROWS if splits_rows(job.guider.model_patcher.model.diffusion_model) else TOKENS
        if refused := refusal(job.plan.degrees.named(), lost(), kind):  # this worker's ComfyUI may be another
            raise Refused(refused)
        return job

    def run(self, job: SamplingJob, control: JobControl) -> tuple[bytes, dict]:
        """Sample. Returns a `sampling_job.Result` as bytes (b"" on other ranks than 0) and the ledger."""
        try:
            with refusing_own_failures():
                return self._run(job, control)
        except MetAlone as error:
            raise RefusedAlone(str(error)) from error
        except Unsupported as error:  # a plan's guards check only what is the same on all ranks
            raise Refused(str(error)) from error
        finally:
            keep_patches()

    def _run(self, job: SamplingJob, control: JobControl) -> tuple[bytes, dict]:
        ledger = Ledger()
        for warning in (*job.warnings, *(misfit.sentence for misfit in misfits())):
            ledger.warn(warning)
        if job.plan.config.compression.mode != "off" and job.plan.degrees.sequence > 1 and compiler().warning:
            ledger.warn(compiler().warning)
        with torch.inference_mode(), Strategies() as strategies:
            options = job.guider.model_options
            agreement = Agreement(FreeMemory(job.guider.model_patcher), ledger, control.cancelled, len(job.known))
            clock = _Clock()
            predictions = Predictions(job.known, self._tell(job, control), Schedules(job.guider).put_behind)
            rounds = None
            together = strategy = self._strategy(job, job.plan.degrees, ledger)
            if job.plan.ahead.config.enabled:
                together = self._strategy(job, job.plan.alone, ledger)
                groups = self._step_groups(job, strategies, together, strategy, agreement, ledger)
                rounds = StepParallel(job.plan.ahead.config, groups, predictions)
                add_wrappers(options, innermost={WrappersMP.SAMPLER_SAMPLE: rounds})
            else:
                strategies.use(strategy)
                add_wrappers(options, outermost={WrappersMP.PREDICT_NOISE: agreement})
                if job.resumable:
                    add_wrappers(options, innermost={WrappersMP.SAMPLER_SAMPLE: one_by_one(predictions)})
            loading = ReservedMemory(self._orders, job.plan.memory, ledger)
            around = {
                WrappersMP.SAMPLER_SAMPLE: clock,
                WrappersMP.PREPARE_SAMPLING: loading,
                **strategies.outermost(),
            }
            inside = strategies.innermost()
            if job.plan.config.self_check:
                checked = _self_checking(job, inside[WrappersMP.CALC_COND_BATCH], strategies, together, ledger)
                inside[WrappersMP.CALC_COND_BATCH] = checked
            add_wrappers(options, outermost=around, innermost=inside)
            set_random_state(job.random_state)
            watch = Watch(job.counterparts)
            samples = self._sample(job, self._callback(control, predictions, lambda: _figures(ledger, clock, rounds)))
            agreement.end()
            left = random_state()
            for patcher in job.counterparts.patchers:
                patcher.eject_model()  # nothing was injected when `watch` began
            changes = agreed_changes(watch, job, self._orders.rank, self._store)
        result = Result(samples, changes, left).to_bytes() if self._orders.rank == 0 else b""
        about = {"sampling_seconds": clock.seconds, "accepted": rounds.accepted if rounds is not None else None}
        return result, {**ledger.to_json(), **about}

    def _strategy(self, job: SamplingJob, degrees: Degrees, ledger: Ledger) -> ActiveStrategy:
        wire = partial(make_wire, job.plan.compression, ledger, expected_calls=job.expected_calls)
        axes, whole = self._mesh.axes(degrees), job.plan.whole_batch
        return ActiveStrategy(job.guider.model_patcher, degrees, axes, wire, ledger, whole_batch=whole)

    def _step_groups(
        self,
        job: SamplingJob,
        strategies: Strategies,
        alone: ActiveStrategy,
        apart: ActiveStrategy,
        agreement: Agreement,
        ledger: Ledger,
    ) -> Callable[[Callable], StepGroups]:
        groups = partial(
            StepGroups,
            axis=self._mesh.axes(job.plan.degrees)["step"],
            agreement=agreement,
            alone=partial(strategies.use, alone),
            apart=partial(strategies.use, apart),
            put_behind=Schedules(job.guider).put_behind,
            ledger=ledger,
            look_ahead=job.plan.ahead.config.look_ahead,
            batches=job.plan.ahead.batches,
        )
        return lambda model: groups(as_one_batch(model))

    def renew(self) -> None:
        """After a job that the ranks did not end together: make a new mesh, and drop all models to reload them."""
        self._mesh = Mesh(self._orders.rank, self._orders.world)
        self.park()

    def park(self, nbytes: int | None = None) -> int:
        """Free so much of the device's memory, or drop all models (None), which the next job maps from their files
        again. Returns the bytes that stay allocated.
        """
        on_the_host = comfy.model_management.unet_offload_device().type == "cpu"  # not with --highvram
        most = self._device_bytes() - nbytes if nbytes is not None and on_the_host else None
        if most is None:
            self._rebuilder.forget()
            drop_models()
        self.tidy()
        with torch.inference_mode():
            # The allocator gives back whole blocks, so less may come free than is unloaded.
            while most is not None and self._device_bytes() > most and free_weights(self._device_bytes() - most):
                self.tidy()
        return self._device_bytes()

    def tidy(self) -> None:
        """Free what a job left in reference cycles, such as residual bases, and release unused memory of the device.

        Python would not collect them for a long time, since only few objects hold that memory. ComfyUI does the same
        after a prompt.
        """
        gc.collect()
        comfy.model_management.soft_empty_cache()

    def about(self) -> dict:
        """Process id and device memory, for the pool's status."""
        return {"pid": os.getpid(), "device_bytes": self._device_bytes()}

    def _sample(self, job: SamplingJob, callback: Callable | None) -> torch.Tensor:
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            job.guider.outer_sample, job.guider, job.wrappers
        )
        arguments = job.arguments._replace(callback=callback, disable_pbar=True)
        return executor.execute(*arguments[:-1], latent_shapes=arguments.latent_shapes)

    def _tell(self, job: SamplingJob, control: JobControl) -> Tell:
        """Sends the predictions of a job that can be resumed to the parent, from rank 0."""
        if self._orders.rank != 0 or not job.resumable:
            return lambda call, prediction: None
        return lambda call, prediction: control.predicted(call, to_payload(prediction))

    def _callback(self, control: JobControl, predictions: Predictions, figures: Callable[[], dict]) -> Callable | None:
        if self._orders.rank != 0:
            return None

        def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
            if predictions.resuming:
                return
            told = torch.frombuffer(bytearray(json.dumps(figures()).encode()), dtype=torch.uint8)
            tensors = {"x0": x0.cpu().contiguous(), "x": x.cpu().contiguous().clone(), "figures": told}
            control.progress(step, total_steps, safetensors.torch.save(tensors))

        return callback

    def _device_bytes(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0


def _self_checking(
    job: SamplingJob, shared: Callable, strategies: Strategies, together: ActiveStrategy, ledger: Ledger
) -> SelfChecking:
    return SelfChecking(
        shared,
        strategies,
        together,
        job.counterparts,
        ledger,
        call=call_to_check(job.plan, job.expected_calls),
        explained=explained_by_rounding(job.plan, job.guider.model_patcher.model.get_dtype_inference()),
    )


class _Clock:
    """A SAMPLER_SAMPLE wrapper that times the sampler alone, without loading the model."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of sampling so far."""
        return self._before + (time.perf_counter() - self._started if self._started is not None else 0.0)

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        self._started = time.perf_counter()
        try:
            return executor(*args, **kwargs)
        finally:
            self._before, self._started = self.seconds, None


def _figures(ledger: Ledger, clock: _Clock, rounds: StepParallel | None) -> dict:
    """Worker 0's figures in the middle of a run: fields of report.live.LiveRun."""
    sent, uncompressed = ledger.totals()
    figures = {"seconds": clock.seconds, "bytes_sent": sent, "bytes_uncompressed": uncompressed}
    if rounds is not None:
        figures |= {"rounds": len(rounds.accepted), "ahead": sum(rounds.accepted) - len(rounds.accepted)}
    return figures


def add_wrappers(
    model_options: dict, outermost: dict[str, Callable] | None = None, innermost: dict[str, Callable] | None = None
) -> None:
    """Put our wrappers around (outermost) or inside (innermost) the workflow's own; dict order is call order."""
    wrappers = model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    for kind, wrapper in (outermost or {}).items():
        wrappers[kind] = {WRAPPER_KEY: [wrapper], **wrappers.get(kind, {})}
    for kind, wrapper in (innermost or {}).items():
        wrappers[kind] = {**wrappers.get(kind, {}), f"{WRAPPER_KEY} inside": [wrapper]}
