"""A sampling job: one `outer_sample` call, packed in the parent and rebuilt in every worker, which keeps its models."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import safetensors.torch
import torch
from comfy.sampler_helpers import get_additional_models

from ...planner.run_plan import RunPlan
from ...pool.errors import Refused
from ...pool.store import Store
from .counterparts import OF_ONE_RUN, Counterparts, containers_of
from .custom_nodes import Packs, adopt, namespaces, pack_in
from .global_patches import GlobalPatch, apply_global_patches, global_patches
from .import_finders import PathModules
from .patcher import make_model, read_delta, recipe_of, write_delta
from .pickling import JobPickler, JobUnpickler
from .return_trip import make_changes

# The key of our wrappers on a model, in the parent and in the workers.
WRAPPER_KEY = "compact_parallel"


class Arguments(NamedTuple):
    """The arguments of a guider's `outer_sample`."""

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
    """The state of torch's global generators in this process, by kind of device."""
    device = comfy.model_management.get_torch_device()
    on_gpu = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_gpu}


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put this process's global generators into the state that `random_state` returned in another process."""
    torch.set_rng_state(state["cpu"])
    device = comfy.model_management.get_torch_device()
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@dataclass(frozen=True)
class Result:
    """The result of worker 0: samples, changes for `return_trip.make_changes`, and the random state after the run."""

    samples: torch.Tensor
    changes: bytes
    random_state: dict[str, torch.Tensor]

    def to_bytes(self) -> bytes:
        """As safetensors."""
        changes = torch.frombuffer(bytearray(self.changes), dtype=torch.uint8) if self.changes else torch.empty(0)
        state = {f"random_state.{kind}": state for kind, state in self.random_state.items()}
        return safetensors.torch.save({"samples": self.samples.cpu().contiguous(), "changes": changes, **state})

    @classmethod
    def from_bytes(cls, data: bytes) -> Result:
        """The inverse of `to_bytes`."""
        tensors = safetensors.torch.load(data)
        samples, changes = tensors.pop("samples"), tensors.pop("changes").numpy().tobytes()
        return cls(samples, changes, {name.removeprefix("random_state."): state for name, state in tensors.items()})


@dataclass
class SamplingJob:
    """One `outer_sample` call and its guider.

    `wrappers` are the OUTER_SAMPLE wrappers that come after Parallel Model's own. The callback stays in the parent.
    `random_state` is the parent's: some samplers draw from torch's global generators. `warnings` are those of the
    worker that rebuilt the job. `counterparts` are the objects that may change in the run, in this process's copy; None
    before the job is packed. `resumable`: the predictions of its calls are sent to the parent, and `known` has those
    of its first calls that an earlier try has made (see parallel/resume.py).
    """

    guider: comfy.samplers.CFGGuider
    arguments: Arguments
    wrappers: list[Callable]
    plan: RunPlan
    random_state: dict[str, torch.Tensor]
    warnings: tuple[str, ...] = ()
    counterparts: Counterparts | None = None
    resumable: bool = False
    known: tuple[torch.Tensor, ...] = ()

    @property
    def expected_calls(self) -> int:
        """The number of model calls if the sampler makes one per step; more are not known beforehand."""
        return max(1, len(self.arguments.sigmas) - 1)

    def take_back(self, result: Result, store: Store) -> None:
        """Apply here what the run has changed in the workers. Raises ShippingError; nothing is changed then."""
        if result.changes:
            make_changes(result.changes, self.counterparts, store, Packs().modules())
        set_random_state(result.random_state)

    def pack(self, store: Store) -> bytes:
        """The job as bytes; large tensors go to `store`. Raises ShippingError that names what cannot be sent."""
        pickler = JobPickler(store)
        guider = self.guider
        additional, _ = get_additional_models(guider.conds, guider.model_patcher.model_dtype())
        for patcher in (guider.model_patcher, *additional):  # numbered before anything refers to their parts
            pickler.patcher_number(patcher)
        pickler.leave_out(_made_for_one_run(guider))
        state = {name: value for name, value in vars(guider).items() if name not in OF_ONE_RUN}
        pickler.write((type(guider), state), f"The guider {type(guider).__name__}")
        pickler.write(guider.model_options, "What patches and wrappers the model carries")
        pickler.write(guider.conds, "The conditioning")
        pickler.write(self.arguments.sampler, "The sampler")
        pickler.write(self.wrappers, "The sampling wrappers")
        pickler.write(self.arguments._replace(callback=None), "The latents")
        pickler.write(self.random_state, "The random state")
        pickler.write((self.resumable, self.known), "The predictions of the run so far")
        described = 0
        while described < len(pickler.patchers):  # a delta may name further patchers
            write_delta(pickler.patchers[described], pickler)
            described += 1
        models = list({id(patcher.model): patcher for patcher in pickler.patchers}.values())  # clones share theirs
        numbers = {id(patcher.model): number for number, patcher in enumerate(models)}
        recipes = [recipe_of(patcher, store) for patcher in models]
        changes = global_patches(pickler.packs)
        roots = pickler.roots().union(*(recipe.roots for recipe in recipes), {change.root for change in changes})
        states = pickler.packs.states(roots)
        pickler.write(states, "What a custom node pack remembers")
        self.counterparts = pickler.end(guider, namespaces(states, PathModules()))
        store.keep_only(pickler.tensor_keys, frozenset().union(*(recipe.tensor_keys for recipe in recipes)))
        return pickle.dumps(
            {
                "modules": pickler.packs.modules(),
                "packs": pickler.packs.names(),
                "global_patches": [tuple(change) for change in changes],
                "recipes": [recipe.stream for recipe in recipes],
                "models": [numbers[id(patcher.model)] for patcher in pickler.patchers],
                "stream": pickler.stream(),
                "plan": self.plan.to_json(),
            }
        )


def _made_for_one_run(guider: comfy.samplers.CFGGuider) -> Iterator[Any]:
    """Yields the objects that ComfyUI made when this run began and drops at its end."""
    yield from containers_of(guider.model_options)
    yield from containers_of(guider.conds)
    yield from (cond for conds in guider.conds.values() for cond in conds)
    if cache := guider.model_options.get("transformer_options", {}).get("easycache"):  # a clone, reset at the end
        yield from (cache, *vars(cache).values())


class ModelKey(NamedTuple):
    """One of a worker's models: the `copy`-th, from 0, that was made from this recipe.

    A workflow may load one file twice and patch each model in its own way, so equal recipes are not one model.
    """

    recipe: bytes
    copy: int

    @classmethod
    def of_all(cls, recipes: Sequence[bytes]) -> list[ModelKey]:
        """A key for every recipe, in order; equal recipes get one each."""
        return [cls(recipe, recipes[:place].count(recipe)) for place, recipe in enumerate(recipes)]


class JobRebuilder:
    """Rebuilds jobs in a worker, and keeps their models for the next job.

    The models of the job before stay too: workflows such as Wan 2.2's sample with two models in turn.
    """

    def __init__(self, finder: PathModules, store: Store, device: torch.device) -> None:
        self._finder = finder
        self._store = store
        self._device = device
        self._models: dict[ModelKey, comfy.model_patcher.ModelPatcher] = {}
        self._current: set[ModelKey] = set()
        self._previous: set[ModelKey] = set()

    def forget(self) -> None:
        """Drop all models."""
        self._models, self._current, self._previous = {}, set(), set()

    def rebuild(self, payload: bytes) -> SamplingJob:
        """Rebuild the job from `payload`. Models already loaded from the same recipe are used again.

        Raises Refused if code of a custom node pack fails here, such as a pack that cannot be imported twice.
        """
        data = pickle.loads(payload)
        self._finder.table.update(data["modules"])
        importlib.invalidate_caches()
        warnings = apply_global_patches([GlobalPatch(*change) for change in data["global_patches"]], self._finder)
        try:
            return replace(self._rebuild(data), warnings=tuple(warnings))
        except Exception as error:
            if pack := pack_in(error, data["packs"]):
                raise Refused(
                    f"Code of the custom node pack {pack} failed in a worker ({type(error).__name__}: {error}). Bypass "
                    'its nodes, or set on_unsupported of Parallel Model to "run on one device".'
                ) from error
            raise

    def _rebuild(self, data: dict) -> SamplingJob:
        keys = ModelKey.of_all(data["recipes"])
        if set(keys) != self._current:
            self._previous, self._current = self._current, set(keys)
        kept = {key: model for key, model in self._models.items() if key in self._previous | self._current}
        self._models = kept  # drop old models before loading new ones
        self._models |= {key: self._make_model(key.recipe) for key in self._current - kept.keys()}
        patchers = [self._models[keys[number]].clone() for number in data["models"]]
        unpickler = JobUnpickler(data["stream"], patchers, self._store, self._device, self._finder)
        kind, state = unpickler.read()
        guider = kind.__new__(kind)
        vars(guider).update(state)
        guider.model_patcher = patchers[0]
        guider.model_options = unpickler.read()
        guider.conds = guider.original_conds = unpickler.read()
        _sampler, wrappers, arguments, random_state, (resumable, known) = (unpickler.read() for _ in range(5))
        for patcher in patchers:
            read_delta(patcher, unpickler)
        states = unpickler.read()
        adopt(states, self._finder)
        return SamplingJob(
            guider=guider,
            arguments=arguments,
            wrappers=wrappers,
            plan=RunPlan.from_json(data["plan"]),
            random_state=random_state,
            resumable=resumable,
            known=known,
            counterparts=unpickler.end(guider, namespaces(states, self._finder)),
        )

    def _make_model(self, recipe: bytes) -> comfy.model_patcher.ModelPatcher:
        return make_model(recipe, self._store, self._device, self._finder)
