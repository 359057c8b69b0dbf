"""Sends a worker's changes back to the parent, pickled like a job; an object that both have is written as its Place.

Places are defined in state_changes.py. The parent trusts what its own workers have written, so this need not be plain
data as in pool/messages.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...pool.store import Store
from .counterparts import Counterparts
from .facets import stays_in_the_worker
from .import_finders import PathModules
from .pickling import JobPickler, JobUnpickler, PassThrough, ShippingError
from .state_changes import StateChange, cannot_return, make, watched_objects

LARGEST_BYTES = 1 << 30
"""The limit for all returned tensors together, in bytes."""


def without_resources(changes: Sequence[StateChange], counterparts: Counterparts, store: Store) -> list[StateChange]:
    """The changes without those variables of packs' modules whose new values cannot be pickled.

    Such values are locks, sessions, compiled functions, made on first use: each process makes its own, as on import.
    """
    if all(change.place[0] != "namespace" for change in changes):
        return list(changes)
    trial = _TrialPickler(store, counterparts)
    narrowed = [trial.narrowed(change) if change.place[0] == "namespace" else change for change in changes]
    return [change for change in narrowed if change.place[0] != "namespace" or any(change.content["entries"])]


def write_changes(changes: Sequence[StateChange], counterparts: Counterparts, store: Store) -> bytes:
    """The changes as bytes; large tensors go to `store`. Raises ShippingError if something cannot be pickled."""
    pickler = _ReturnPickler(store, counterparts)
    pickler.dump(len(changes))
    for change in changes:
        try:
            pickler.dump((change.place, dict(change.content)))
        except Exception as error:  # whatever makes it impossible
            raise ShippingError(cannot_return(change.obj, counterparts, error)) from error
    return pickler.stream()


def make_changes(stream: bytes, counterparts: Counterparts, store: Store, modules: dict[str, str]) -> None:
    """Apply the changes that a worker has written to this process's objects: all, or none if one cannot be read.

    `modules` are the files of packs' modules (Packs.modules). Raises ShippingError.
    """
    finder = PathModules()
    finder.table.update(modules)
    unpickler = _ReturnUnpickler(stream, counterparts, store, finder)
    try:
        changes = [unpickler.read() for _ in range(unpickler.read())]
    except Exception as error:  # such as a module that cannot be imported here
        raise ShippingError(
            f"What this run has changed cannot be read back from the workers ({type(error).__name__}: {error}). Set "
            'on_unsupported of Parallel Model to "run on one device".'
        ) from error
    make(changes, counterparts)


class _ReturnPickler(JobPickler):
    """Pickles changes: objects that the parent has too are written as their place, everything else by value."""

    def __init__(self, store: Store, counterparts: Counterparts) -> None:
        super().__init__(store)
        self._places = {id(obj): place for place, obj in watched_objects(counterparts)}
        self._placeholders = {id(obj): number for number, obj in enumerate(counterparts.local)}
        self._bytes = 0
        for patcher in counterparts.patchers:
            self.add_patcher(patcher)

    def persistent_id(self, obj: Any) -> tuple | None:
        """Called by pickle for every object; None lets it travel by value."""
        if id(obj) in self._places:
            return ("counterpart", self._places[id(obj)])
        if id(obj) in self._placeholders:
            return ("local", self._placeholders[id(obj)])
        if stays_in_the_worker(obj):
            return ("pass through",)
        return super().persistent_id(obj)

    def patcher_number(self, patcher: ModelPatcher) -> int:
        """The patcher's number in this job. Raises ShippingError for one that was made in the run."""
        if all(patcher is not known for known in self.patchers):
            raise ShippingError("it holds a MODEL that was made while sampling")
        return super().patcher_number(patcher)

    def _tensor_id(self, tensor: torch.Tensor) -> tuple | None:
        if id(tensor) not in self._tensors:
            self._bytes += tensor.nbytes
        if self._bytes > LARGEST_BYTES:
            raise ShippingError(f"the tensors are larger than {LARGEST_BYTES / 1e9:.1f} GB together")
        return super()._tensor_id(tensor)


class _TrialPickler(_ReturnPickler):
    """Finds out what can be pickled. Writes no tensor to the store, as every worker tries and all share the store."""

    def narrowed(self, change: StateChange) -> StateChange:
        """The change of a namespace without the entries whose values cannot be sent."""
        entries = change.content["entries"]
        kept = entries.only(lambda name: name not in entries.new or self._can_send(entries.new[name]))
        return replace(change, content={"entries": kept})

    def _can_send(self, value: Any) -> bool:
        try:
            self.dump(value)
        except Exception:  # whatever makes it impossible
            return False
        return True

    def _tensor_id(self, tensor: torch.Tensor) -> tuple | None:
        return ("tensor",)


class _ReturnUnpickler(JobUnpickler):
    """Reads in the parent what _ReturnPickler wrote in a worker."""

    def __init__(self, stream: bytes, counterparts: Counterparts, store: Store, modules: PathModules) -> None:
        device = comfy.model_management.get_torch_device()
        super().__init__(stream, list(counterparts.patchers), store, device, modules)
        self._counterparts = dict(watched_objects(counterparts))
        self._local = list(counterparts.local)

    def persistent_load(self, pid: tuple) -> Any:
        """The object behind a persistent id. Tensors are copied out of the store, which the next job clears."""
        match pid:
            case ("counterpart", place):
                return self._counterparts[place]
            case ("pass through",):
                return PassThrough()
            case ("stored", flags, key):
                return self._tensor(flags, lambda: self._store.get(key).clone())
        return super().persistent_load(pid)
