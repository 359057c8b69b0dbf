"""The plan of a pipeline's run: its facts as the planner wants them, from the folder and the node's inputs."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from ..attention.unsupported import Unsupported
from ..config import ParallelConfig
from ..parallel.step.samplers import REPLAY, Kind
from ..planner.capabilities import ONE_DEVICE
from ..planner.facts import Asked, JobFacts, ModelFacts, SamplerFacts
from ..planner.link import Link
from ..planner.run_plan import RunPlan, plan_run
from ..planner.sharing import NothingToShare
from .folder import FolderFacts
from .inputs import PipelineInputs
from .job import XDIT, PipelineChoice
from .plans import PLANS
from .running import DENOISERS
from .weight_files import read_json
from .xdit.planning import plan_xdit

ITEMSIZE = {"float32": 4}
GUIDANCE = ("guidance_scale", "max_guidance_scale")
BOTH_IN_ONE_BATCH = re.compile(r"cat\(\[\w+\] \* 2")
"""How a pipeline's code joins the two conditions of classifier-free guidance to one batch."""

OWN_WAY_OUT = "set the degrees to 1, or strategy to auto"
ONE_WORKER = "One worker runs this pipeline alone, because the others would have nothing to do: {}"


def describe(choice: PipelineChoice, folder: FolderFacts, inputs: PipelineInputs) -> JobFacts:
    """The facts of one run of a pipeline."""
    name = next((part for part in DENOISERS if part in folder.components), "")
    denoiser = folder.components[name][1] if name else folder.pipeline
    known = any(model.rpartition(".")[2] == denoiser for plan in PLANS for model in plan.models)
    no_plan = "" if known else f"There is no sequence-parallel plan for {denoiser} of diffusers"
    model = ModelFacts(
        name=denoiser,
        no_plan=no_plan,
        refusal=f"{no_plan}; {OWN_WAY_OUT}, or use cfg_degree, data_degree or step_degree." if no_plan else "",
        heads=_heads(folder.path / name) if name else None,
    )
    found = class_of(folder)
    entries = int(inputs.arguments.get("num_images_per_prompt") or inputs.arguments.get("num_videos_per_prompt") or 1)
    conditions = _conditions(found, inputs)
    return JobFacts(
        model=model,
        batch=entries,
        asked=Asked(conditions, conditions),
        sampler=SamplerFacts(inputs.scheduler or "the pipeline's scheduler", Kind(REPLAY), steps_of(found, inputs)),
        one_at_cfg_1=_guides(found),
        itemsize=ITEMSIZE.get(choice.dtype, 2),
    )


def class_of(folder: FolderFacts) -> type:
    """The class of a folder's pipeline."""
    return getattr(importlib.import_module("diffusers"), folder.pipeline)


def plan_pipeline(
    choice: PipelineChoice, config: ParallelConfig, facts: JobFacts, world: int, link: Link | None = None
) -> RunPlan:
    """The plan of a run on `world` workers; on one of them where, in mode "auto", there is nothing to share.

    Raises ConfigError or Unsupported, with the way out.
    """
    if choice.engine == XDIT:
        return plan_xdit(config, choice.xdit, facts, world, link)
    try:
        return plan_run(config, facts, world, link)
    except NothingToShare as nothing:
        return _alone(config, str(nothing) if world > 1 else "")
    except Unsupported as error:
        sentence = told(error)
        if config.strategy.mode == "auto" and not config.step_reuse.enabled:
            return _alone(config, sentence.partition(";")[0] + ".")
        raise Unsupported(sentence) from error


def told(error: Exception) -> str:
    """The sentence of a refusal, with a pipeline's way out where that of Parallel Model stands."""
    return str(error).replace(ONE_DEVICE, OWN_WAY_OUT)


def _alone(config: ParallelConfig, reason: str) -> RunPlan:
    warnings = (ONE_WORKER.format(reason),) if reason else ()
    return RunPlan(config, warnings=warnings)


def workers_of(choice: PipelineChoice, plan: RunPlan) -> int:
    """The number of workers of a plan."""
    return plan.degrees.world * (choice.xdit.pipefusion_degree if choice.engine == XDIT else 1)


def steps_of(pipeline: type, inputs: PipelineInputs) -> int:
    """The steps of a run, as asked for or by default."""
    return inputs.steps or int(_default(pipeline, "num_inference_steps") or 1)


def _conditions(pipeline: type, inputs: PipelineInputs) -> int:
    """The conditions that the denoiser is given as one batch."""
    if not _guides(pipeline):
        return 1
    for name in GUIDANCE:
        if name in inspect.signature(pipeline.__call__).parameters:
            scale = inputs.arguments.get(name, inputs.guidance or _default(pipeline, name))
            return 2 if scale is not None and float(scale) > 1 else 1
    return 1


def _guides(pipeline: type) -> bool:
    """Whether the denoiser is given both conditions as one batch where there is guidance."""
    return bool(BOTH_IN_ONE_BATCH.search(inspect.getsource(pipeline.__call__)))


def _default(pipeline: type, name: str) -> Any:
    parameter = inspect.signature(pipeline.__call__).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _heads(folder: Path) -> int | None:
    """The number of a transformer's attention heads, from its config."""
    heads = read_json(folder / "config.json").get("num_attention_heads")
    return heads if isinstance(heads, int) else None
