"""A pipeline without weights, by which the inputs of a run are checked before any worker loads anything."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ..planner.run_plan import RunPlan
from .component_classes import find_class, kind, loads_as
from .folder import FolderFacts
from .inputs import PipelineInputs, keyword_arguments, result_kind
from .job import XDIT, PipelineChoice
from .loading import absent_or_set, with_scheduler
from .planning import class_of, workers_of
from .sizes import check_sizes
from .xdit import supported

log = logging.getLogger(__name__)


def check_run(
    choice: PipelineChoice, folder: FolderFacts, inputs: PipelineInputs, image: torch.Tensor | None, plan: RunPlan
) -> None:
    """Refuses what the workers would refuse after they have loaded the folder, as far as its configs tell.

    image: (B, H, W, 3), 0 to 1. Raises ConfigError or Unsupported, with the sentence that the workers would raise.
    """
    found = class_of(folder)
    arguments = keyword_arguments(found, inputs, image)
    result_kind(found)
    pipe = outline(folder)
    if pipe is None:
        return
    pipe = with_scheduler(pipe, inputs.scheduler)
    check_sizes(pipe, arguments)
    if choice.engine == XDIT:
        call = {**arguments, "generator": torch.Generator()}
        supported.check(pipe, choice.xdit, plan.degrees, call, workers_of(choice, plan))


def outline(folder: FolderFacts) -> Any:
    """The folder's pipeline with diffusers' models made from their configs alone, which has every size of the real one.

    Other parts than those models and the scheduler are left out; None for a pipeline that cannot be made without them.
    """
    found: Any = class_of(folder)
    try:
        components = {name: _without_weights(folder, name) for name in folder.components}
        return found(**absent_or_set(found, folder.path) | components)
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError, OSError, ImportError) as error:
        log.debug("The inputs of %s are checked by the workers.", folder.pipeline, exc_info=error)
        return None


def _without_weights(folder: FolderFacts, name: str) -> Any:
    from accelerate import init_empty_weights

    found: Any = find_class(*folder.components[name])
    place = str(folder.path / name)
    if kind(found) == "scheduler":
        return found.from_pretrained(place, local_files_only=True)
    if kind(found) != "model" or loads_as(found) != "diffusers":
        return None
    with init_empty_weights():
        return found.from_config(found.load_config(place, local_files_only=True))
