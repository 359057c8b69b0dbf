"""Loads a pipeline of diffusers from a folder: nothing is fetched, no code of it is run, no weight is left to chance.

diffusers and transformers fill what a file lacks with random numbers and only log it. So each model is loaded on its
own, and what its loader reports as missing is an error.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..config import ConfigError
from .component_classes import annotated, find_class, kind
from .folder import INDEX, FolderFacts, inspect_folder
from .memory import fits
from .weight_files import read_json

DTYPES = ("auto", "float32", "float16", "bfloat16")
HOST = torch.device("cpu")


def load(folder: Path, dtype: str, device: torch.device, scheduler: str = "") -> Any:
    """The DiffusionPipeline of a folder, its models on `device`.

    dtype: one of DTYPES; "auto" keeps that of the files, for each model. scheduler: the name of another scheduler of
    diffusers, made from the settings of the folder's own; "" keeps that one. Raises ConfigError for whatever
    `inspect_folder` refuses, for a weight that the files lack or that has another shape, and for a scheduler that does
    not fit. Models that do not fit on the device together stay in host memory and take turns there.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    facts = inspect_folder(folder)
    together = fits(facts.nbytes, device)
    components = {name: _load_component(facts, name, dtype, device if together else HOST) for name in facts.components}
    found: Any = getattr(importlib.import_module("diffusers"), facts.pipeline)
    pipeline = found(**_absent_or_set(found, folder) | components)
    pipeline.register_to_config(_name_or_path=str(folder))
    if not together:
        take_turns(pipeline, device)
    return with_scheduler(pipeline, scheduler)


def take_turns(pipeline: Any, device: torch.device) -> None:
    """From now on each model of the pipeline comes to the device when it is called, and the one before it leaves."""
    pipeline.enable_model_cpu_offload(device=device)


def takes_turns(pipeline: Any) -> bool:
    """Whether its models take turns on the device."""
    return bool(getattr(pipeline, "_all_hooks", ()))


def with_scheduler(pipeline: Any, name: str) -> Any:
    """The pipeline with a scheduler of the class `name`; itself for "". Raises ConfigError if that does not fit."""
    if not name:
        return pipeline
    other = copy.copy(pipeline)
    vars(other)["scheduler"] = _other_scheduler(pipeline, name)
    return other


def _absent_or_set(pipeline: type, folder: Path) -> dict[str, Any]:
    """What else the __init__ of a pipeline gets: its settings in the folder's index, and None for what is left out."""
    content = read_json(folder / INDEX)
    parameters = list(inspect.signature(pipeline.__init__).parameters.values())[1:]
    settings = {
        each.name: content[each.name] for each in parameters if not isinstance(content.get(each.name, []), list)
    }
    left_out = {
        each.name: None for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    }
    return left_out | settings


def _load_component(facts: FolderFacts, name: str, dtype: str, device: torch.device) -> Any:
    place, found = facts.path / name, find_class(*facts.components[name])
    if name in facts.weights:
        return _load_model(facts, name, dtype).to(device)
    code = {"trust_remote_code": False} if kind(found) in ("tokenizer", "processor") else {}
    with _explained(place, found):
        return found.from_pretrained(str(place), local_files_only=True, **code)


def _load_model(facts: FolderFacts, name: str, dtype: str) -> torch.nn.Module:
    place, found = facts.path / name, find_class(*facts.components[name])
    wanted = getattr(torch, _stored_dtype(facts, name) if dtype == "auto" else dtype)
    with _explained(place, found):
        model, report = found.from_pretrained(
            str(place),
            dtype=wanted,
            variant=facts.weights[name].variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise ConfigError(
            f"folder: {place} lacks {len(missing)} of the weights of {found.__name__}, such as {missing[0]}; fetch the "
            "pipeline again, or choose another folder."
        )
    return model


@contextmanager
def _explained(place: Path, found: type) -> Iterator[None]:
    """Makes what a loader of diffusers or transformers raises one sentence that names the folder."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"folder: {place} does not fit {found.__name__} ({reason}); fetch the pipeline again, or choose another "
            "folder."
        ) from error


def _stored_dtype(facts: FolderFacts, name: str) -> str:
    stored = facts.weights[name].dtype
    if stored not in DTYPES:
        raise ConfigError(
            f"dtype is auto, but {facts.path / name} is stored as {stored}, which no pipeline computes with; choose "
            f"one of {', '.join(DTYPES[1:])}."
        )
    return stored


def _other_scheduler(pipeline: Any, name: str) -> Any:
    """A scheduler of the class `name` with the settings of the pipeline's own.

    The classes that fit are those that the scheduler calls compatible and those that the pipeline asks for.
    """
    own = type(pipeline.scheduler)
    wanted = [each for each in annotated(type(pipeline), "scheduler") if kind(each) == "scheduler"]
    fitting = {each.__name__: each for each in (own, *wanted, *pipeline.scheduler.compatibles)}
    fitting.pop("SchedulerMixin", None)
    if name not in fitting:
        raise ConfigError(
            f"scheduler is {name!r}, which does not fit {type(pipeline).__name__} with {own.__name__}; choose one of "
            f"{', '.join(sorted(fitting))}, or leave it empty."
        )
    return fitting[name].from_config(pipeline.scheduler.config)
