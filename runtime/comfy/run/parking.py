"""Shows the workers' weights to ComfyUI's memory management in the parent, so that it can free them.

A worker shares its device with the parent's text encoder and VAE. For each device a stand-in for the workers' weights
is put into ComfyUI's list of loaded models. A VAE that needs room unloads a part of it, which the workers of that
device free; /free unloads all, which parks them.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter

import comfy.model_management
import comfy.model_patcher
import torch

from ...planner.memory import MemoryNeed, communication_bytes
from ...pool.pool import Pool


class WorkerWeights(comfy.model_patcher.ModelPatcher):
    """The stand-in for the weights that a pool's workers hold on one of the parent's devices."""

    def __init__(self, pool: Pool, device: torch.device) -> None:
        super().__init__(torch.nn.Module(), device, torch.device("cpu"), size=1)
        self._pool = pool

    def loaded_size(self) -> int:
        """Bytes the workers hold on the device."""
        device = str(self.load_device)
        return sum(w.get("device_bytes", 0) for w in self._pool.status()["workers"] if w["device"] == device)

    def model_size(self) -> int:
        """The same as `loaded_size`: nothing can be loaded from here."""
        return self.loaded_size()

    def partially_unload(
        self, device_to: torch.device, memory_to_free: int = 0, force_patch_weights: bool = False
    ) -> int:
        """Have the device's workers free so many bytes. Returns the bytes freed."""
        held = self.loaded_size()
        self._park(math.ceil(memory_to_free))
        return held - self.loaded_size()

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        """Called when ComfyUI unloads the model: park the device's workers."""
        self._park(None)
        return self.model

    def _park(self, nbytes: int | None) -> None:
        self._pool.park(comfy.model_management.processing_interrupted, str(self.load_device), nbytes)

    def __del__(self) -> None:
        """Does nothing: when the stand-in is collected, the pool lives on."""


def make_room(pool: Pool, patcher: comfy.model_patcher.ModelPatcher, need: MemoryNeed) -> None:
    """Before a run: unload the parent's own copy of the model, and free room on the workers' devices, for each worker.

    The copy thereby loses what a stock run has applied to it, such as injections, which must not travel as applied.
    """
    comfy.model_management.unload_model_and_clones(patcher)
    make_room_for(pool, patcher.model_size(), need)


def make_room_for(pool: Pool, nbytes: int, need: MemoryNeed) -> None:
    """Before a run: free room for each worker on its device, for weights of `nbytes` and for what a run needs besides.

    Other pools may be parked; what this pool's workers hold already counts towards the room needed. Memory that the
    parent's allocator keeps for its own tensors counts as free in ComfyUI, but not here: no worker can use it.
    """
    comfy.model_management.soft_empty_cache()
    own = pool.companions.values()
    for name, workers in Counter(name for name in pool.devices if name != "cpu").items():
        device = torch.device(name)
        there = [entry for entry in comfy.model_management.current_loaded_models if entry.device == device]
        kept = [entry for entry in there if entry.model in own]
        if len(kept) == len(there):
            continue  # asking a device for its free memory would create a CUDA context on it in the parent
        reserved = need.reserved + communication_bytes(pool.backend, pool.world)
        needed = nbytes * 1.1 + comfy.model_management.minimum_inference_memory() + reserved
        held = sum(entry.model.loaded_size() for entry in kept)
        _, only_here = comfy.model_management.get_free_memory(device, torch_free_too=True)
        comfy.model_management.free_memory(workers * needed - held + only_here, device, keep_loaded=kept)
    comfy.model_management.soft_empty_cache()


def show_weights(pool: Pool) -> None:
    """After a run, however it ended: show the workers' weights to the parent's memory management."""
    loaded = comfy.model_management.current_loaded_models
    for name in dict.fromkeys(pool.devices):
        stand_in = pool.companions.setdefault(name, WorkerWeights(pool, torch.device(name)))
        if all(entry.model is not stand_in for entry in loaded):
            entry = comfy.model_management.LoadedModel(stand_in)
            entry.real_model = weakref.ref(stand_in.model)
            entry.model_finalizer = weakref.finalize(stand_in.model, comfy.model_management.cleanup_models)
            entry.model_finalizer.atexit = False
            loaded.insert(0, entry)
