"""The node Parallel Model, the only one that a workflow needs: makes a MODEL sample on a pool of workers."""

import importlib
import logging
from typing import Any

from comfy_api.latest import io

from ..runtime.attention import exchanges
from ..runtime.attention.unsupported import Unsupported
from ..runtime.comfy.fits import Misfit, against, lost
from ..runtime.comfy.run.devices import devices_of
from ..runtime.comfy.seam import EVERYTHING
from ..runtime.compression import codecs
from ..runtime.config import (
    ON_UNSUPPORTED,
    CompressionConfig,
    ConfigError,
    ParallelConfig,
    PoolConfig,
    StepReuseConfig,
    StrategyConfig,
)
from ..runtime.planner.run_plan import plan_run
from .plugs import plugs
from .settings import DEFAULT_DEVICES, default_pool, stored
from .step_reuse import CompactParallelStepReuse
from .strategy import CompactParallelStrategy
from .types import CATEGORY
from .validation import Inputs, Untold, plugged, verdict
from .worker_pool import CompactParallelPool

log = logging.getLogger(__name__)


class CompactParallelModel(io.ComfyNode):
    """Makes a MODEL sample on all devices."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelModel",
            display_name="Parallel Model",
            category=CATEGORY,
            description=(
                "Makes a MODEL sample on all your devices: one picture or video, sooner. Put it after the loader (and "
                "LoRAs) and leave the rest of the workflow as it is. With nothing plugged in it chooses by itself and "
                "the result is the same as without it."
            ),
            search_aliases=["multi gpu", "multigpu", "xdit", "ulysses", "ring attention", "compactfusion", "parallel"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample in parallel, from any loader, LoRA or patch."),
                *plugs(),
                io.Combo.Input(
                    "on_unsupported",
                    options=list(ON_UNSUPPORTED),
                    default=ON_UNSUPPORTED[0],
                    optional=True,
                    tooltip=(
                        "What to do with a model or patch that cannot be parallelised this way, or when the workers "
                        "fail: stop with an error that says why, or warn and sample on one device as if this node were "
                        "not there."
                    ),
                ),
                io.Boolean.Input(
                    "self_check",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Also compute one model call of each run whole on every device. Parallel Report says how far "
                        "the workers' result is from it, and warns if rounding does not explain it. It takes the time "
                        "and the memory of one call on one device, and does not change the picture."
                    ),
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same model; whatever samples it samples in parallel.")],
        )

    @classmethod
    def validate_inputs(cls, strategy: Any = None) -> bool | str:
        """Checks, before anything runs, that the degrees fit the number of workers and Step Reuse."""
        return verdict(cls, "strategy", _wrong_together)

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> str:
        """The default devices of the settings, so that ComfyUI runs the node again after they change."""
        return str(stored(DEFAULT_DEVICES, ""))

    @classmethod
    def execute(
        cls,
        model: Any,
        pool: PoolConfig | None = None,
        strategy: StrategyConfig | None = None,
        compression: CompressionConfig | None = None,
        step_reuse: StepReuseConfig | None = None,
        on_unsupported: str = ON_UNSUPPORTED[0],
        self_check: bool = False,
    ) -> io.NodeOutput:
        config = ParallelConfig(
            pool=pool or default_pool(),
            strategy=strategy or StrategyConfig(),
            compression=compression or CompressionConfig(),
            on_unsupported=on_unsupported,
            step_reuse=step_reuse or StepReuseConfig(),
            self_check=self_check,
        )
        exchanges.require_known(config.strategy)
        codecs.require_known(config.compression)
        plan_run(config, None, len(devices_of(config)))  # these report a wrong setting before anything starts
        if misfit := against(EVERYTHING):
            if on_unsupported == ON_UNSUPPORTED[0]:
                raise Unsupported(_not_at_all(misfit))
            log.warning("Parallel Model runs on one device. %s", misfit.sentence)
            return io.NodeOutput(model)
        # On some ComfyUIs this import fails.
        outer_sample = importlib.import_module("..runtime.comfy.run.outer_sample", __package__)
        return io.NodeOutput(outer_sample.parallelised(model, config))


def _not_at_all(misfit: Misfit) -> str:
    return f'{misfit.sentence} Or set on_unsupported of Parallel Model to "run on one device".'


def _wrong_together(inputs: Inputs) -> str:
    kinds = {
        "pool": CompactParallelPool,
        "strategy": CompactParallelStrategy,
        "step_reuse": CompactParallelStepReuse,
    }
    try:
        given = {name: plugged(inputs, name, kind) for name, kind in kinds.items() if name in inputs}
        config = ParallelConfig(**(given if "pool" in given else {"pool": default_pool(), **given}))
        world = len(devices_of(config))
    except Untold:
        return ""
    except ConfigError as error:
        return "" if "pool" in inputs else str(error)  # Parallel Worker Pool reports its devices itself
    try:
        plan_run(config, None, world)
    except ConfigError as error:
        return str(error)
    return _not_here(config, world) if inputs.get("on_unsupported", ON_UNSUPPORTED[0]) == ON_UNSUPPORTED[0] else ""


def _not_here(config: ParallelConfig, world: int) -> str:
    """Why the installed ComfyUI cannot run this configuration, whatever the model; "" if it can."""
    if misfit := against(EVERYTHING):
        return _not_at_all(misfit)
    try:
        plan_run(config, None, world, lost=lost())
    except Unsupported as error:
        return str(error)
    return ""
