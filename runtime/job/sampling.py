"""A sampling job: what ComfyUI was about to sample, packed in the parent and rebuilt in every worker."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.sampler_helpers import get_additional_models

from ..config import ParallelConfig
from ..parallel.mesh import Degrees
from .modules import PathModules, path_modules
from .patcher import cook, read_delta, recipe_of, write_delta
from .pickling import JobPickler, JobUnpickler
from .store import keep_only

# Our wrappers on a model, in the parent and in the workers, are known by this key.
WRAPPER_KEY = "compact_parallel"

# What a guider holds for the duration of one call, or what travels on its own.
_GUIDER_OWN = {"model_patcher", "model_options", "original_conds", "conds", "inner_model", "loaded_models"}


class Arguments(NamedTuple):
    """What ComfyUI calls a guider's `outer_sample` with."""

    noise: torch.Tensor
    latent_image: torch.Tensor
    sampler: Any
    sigmas: torch.Tensor
    denoise_mask: torch.Tensor | None = None
    callback: Callable | None = None
    disable_pbar: bool = False
    seed: int | None = None
    latent_shapes: list | None = None


def random_state() -> dict[str, torch.Tensor]:
    """The state of torch's global generators here, by kind of device."""
    device = comfy.model_management.get_torch_device()
    on_gpu = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_gpu}


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put the global generators of this process into the state `random_state` returned elsewhere."""
    torch.set_rng_state(state["cpu"])
    device = comfy.model_management.get_torch_device()
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@dataclass
class SamplingJob:
    """One `outer_sample` call and the guider whose call it is.

    `wrappers` are the OUTER_SAMPLE wrappers that come after Parallel Model's own. The callback stays in the parent.
    `alone` are the degrees for calls that Step Reuse evaluates one by one, and `batches` tells whether it may evaluate
    several calls of a worker as one batch. `random_state`: some samplers draw from torch's global generators, which
    must be where the parent's are.
    """

    guider: comfy.samplers.CFGGuider
    arguments: Arguments
    wrappers: list[Callable]
    config: ParallelConfig
    degrees: Degrees
    random_state: dict[str, torch.Tensor]
    alone: Degrees
    batches: bool

    @property
    def expected_calls(self) -> int:
        """Model calls of a sampler that makes one per step; those that make more are not known beforehand."""
        return max(1, len(self.arguments.sigmas) - 1)

    def pack(self, directory: Path) -> bytes:
        """The job as bytes; its large tensors go to `directory`. Raises ShippingError naming what cannot travel."""
        pickler = JobPickler(directory)
        guider = self.guider
        additional, _ = get_additional_models(guider.conds, guider.model_patcher.model_dtype())
        for patcher in (guider.model_patcher, *additional):  # their parts are known before anything refers to them
            recipe_of(patcher)  # refused here, not after the weights of a ControlNet were written to the store
            pickler.patcher_number(patcher)
        state = {name: value for name, value in vars(guider).items() if name not in _GUIDER_OWN}
        pickler.write((type(guider), state), f"The guider {type(guider).__name__}")
        pickler.write(guider.model_options, "What patches and wrappers the model carries")
        pickler.write(guider.conds, "The conditioning")
        pickler.write(self.arguments.sampler, "The sampler")
        pickler.write(self.wrappers, "The sampling wrappers")
        pickler.write(self.arguments._replace(callback=None), "The latents")
        pickler.write(self.random_state, "The random state")
        described = 0
        while described < len(pickler.patchers):  # a delta may name further patchers
            write_delta(pickler.patchers[described], pickler)
            described += 1
        keep_only(directory, pickler.tensor_keys)
        return pickle.dumps(
            {
                "modules": path_modules(),
                "recipes": [recipe_of(patcher) for patcher in pickler.patchers],
                "stream": pickler.stream(),
                "config": self.config.to_json(),
                "degrees": self.degrees.to_json(),
                "alone": self.alone.to_json(),
                "batches": self.batches,
            }
        )


class JobRebuilder:
    """Rebuilds jobs in a worker, and keeps the models they were made from for the next one.

    One model more stays: workflows such as Wan 2.2's sample with two in turn.
    """

    def __init__(self, finder: PathModules, directory: Path, device: torch.device) -> None:
        self._finder = finder
        self._directory = directory
        self._device = device
        self._models: dict[bytes, comfy.model_patcher.ModelPatcher] = {}

    def rebuild(self, payload: bytes) -> SamplingJob:
        """The job behind `payload`. Models already loaded from the same recipe are used again."""
        data = pickle.loads(payload)
        self._finder.table.update(data["modules"])
        importlib.invalidate_caches()
        recipes = data["recipes"]
        kept = [recipe for recipe in self._models if recipe not in recipes][-1:]
        self._models = {recipe: self._models.get(recipe) or cook(recipe) for recipe in dict.fromkeys((*kept, *recipes))}
        patchers = [self._models[recipe].clone() for recipe in recipes]
        unpickler = JobUnpickler(data["stream"], patchers, self._directory, self._device, self._finder)
        kind, state = unpickler.read()
        guider = kind.__new__(kind)
        vars(guider).update(state)
        guider.model_patcher = patchers[0]
        guider.model_options = unpickler.read()
        guider.conds = guider.original_conds = unpickler.read()
        _sampler, wrappers, arguments, random_state = (unpickler.read() for _ in range(4))
        for patcher in patchers:
            read_delta(patcher, unpickler)
        return SamplingJob(
            guider=guider,
            arguments=arguments,
            wrappers=wrappers,
            config=ParallelConfig.from_json(data["config"]),
            degrees=Degrees.from_json(data["degrees"]),
            random_state=random_state,
            alone=Degrees.from_json(data["alone"]),
            batches=data["batches"],
        )
