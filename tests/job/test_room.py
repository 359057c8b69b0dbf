"""Whom a pool makes room from on its GPUs, with stand-ins for pools: their devices need not exist for that."""

from __future__ import annotations

import math

import comfy.model_management
import pytest
import torch
from compact_parallel.runtime.comfy.run.parking import make_room, show_weights
from compact_parallel.runtime.comfy.shipping.at_rest import put_at_rest
from compact_parallel.runtime.planner.memory import MemoryNeed
from sampling import model

GIB = 1 << 30


class PoolOnGpu:
    """What make_room and show_weights ask of a pool of one worker on cuda:0 that holds `held` bytes."""

    devices, backend, world = ("cuda:0",), "nccl", 1

    def __init__(self, held: int) -> None:
        self.held = held
        self.companions = {}

    def status(self) -> dict:
        return {"workers": [{"device": "cuda:0", "device_bytes": self.held}]}

    def park(self, interrupted: object, device: str, nbytes: int | None) -> bool:
        assert device == "cuda:0"
        self.held = 0 if nbytes is None else max(0, self.held - nbytes)
        return True


@pytest.fixture(autouse=True)
def full_gpu(monkeypatch):
    """A GPU with a GiB free; what other tests have loaded stays out of this."""
    monkeypatch.setattr("comfy.model_management.current_loaded_models", [])
    monkeypatch.setattr("comfy.model_management.get_free_memory", _a_gib)
    monkeypatch.setattr("comfy.model_management.soft_empty_cache", lambda force=False: None)


def _a_gib(device: torch.device, torch_free_too: bool = False):
    return (GIB, 0) if torch_free_too else GIB


def patcher_of(size: int):
    """A model of `size` bytes."""
    patcher = model("flux").clone()
    patcher.size = size
    return patcher


def test_another_pool_parks_and_ones_own_weights_stay():
    own, other = PoolOnGpu(2 * GIB), PoolOnGpu(3 * GIB)
    for pool in (own, other):
        show_weights(pool)
    make_room(own, patcher_of(4 * GIB), MemoryNeed())
    needed = 4 * GIB * 1.1 + comfy.model_management.minimum_inference_memory() - 2 * GIB - GIB
    assert own.held == 2 * GIB and other.held == 3 * GIB - math.ceil(needed)


def test_what_the_workers_hold_already_needs_no_more_room():
    own, other = PoolOnGpu(8 * GIB), PoolOnGpu(3 * GIB)
    for pool in (own, other):
        show_weights(pool)
    make_room(own, patcher_of(4 * GIB), MemoryNeed())
    assert (own.held, other.held) == (8 * GIB, 3 * GIB)


def test_memory_that_the_parents_allocator_keeps_is_no_room(monkeypatch):
    """It is given back; what cannot be, such as the rest of a block in use, does not count as free."""
    own, other = PoolOnGpu(0), PoolOnGpu(GIB // 2)
    for pool in (own, other):
        show_weights(pool)
    kept, emptied = [GIB // 2], []
    monkeypatch.setattr(
        "comfy.model_management.get_free_memory",
        lambda device, torch_free_too=False: (4 * GIB, kept[0]) if torch_free_too else 4 * GIB,
    )
    monkeypatch.setattr("comfy.model_management.soft_empty_cache", lambda force=False: emptied.append(kept[0]))
    patcher = patcher_of(int(1.8 * GIB))  # with what a run needs besides, 3.2 GiB
    kept[0] = GIB // 2
    make_room(own, patcher, MemoryNeed())
    assert other.held == GIB // 2 and emptied
    kept[0] = GIB
    make_room(own, patcher, MemoryNeed())
    assert other.held < GIB // 2


def test_room_is_for_every_worker_of_the_card_and_for_what_it_will_hold_besides():
    left = []
    for devices, reserved in ((("cuda:0",), 0), (("cuda:0", "cuda:0"), 0), (("cuda:0", "cuda:0"), GIB)):
        own, other = PoolOnGpu(0), PoolOnGpu(40 * GIB)
        own.devices = devices
        for pool in (own, other):
            show_weights(pool)
        make_room(own, patcher_of(4 * GIB), MemoryNeed(reserved=reserved))
        left.append(other.held)
        comfy.model_management.current_loaded_models.clear()
    one = math.ceil(4 * GIB * 1.1 + comfy.model_management.minimum_inference_memory())
    assert left[0] - left[1] == pytest.approx(one, abs=2) and left[1] - left[2] == pytest.approx(2 * GIB, abs=2)


def test_a_model_that_travels_leaves_its_device_and_no_other_is_asked(monkeypatch):
    asked = []

    def free(device, torch_free_too=False):
        asked.append(device)
        return _a_gib(device, torch_free_too)

    monkeypatch.setattr("comfy.model_management.get_free_memory", free)
    devices = [torch.device("cpu"), torch.device("cuda", 7)]
    monkeypatch.setattr("comfy.model_management.get_all_torch_devices", lambda: devices)
    patcher, other = model("flux").clone(), model("wan").clone()
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher, other])
        put_at_rest(patcher)
    assert [entry.model for entry in comfy.model_management.current_loaded_models] == [other]
    assert set(asked) == {torch.device("cpu")}


def test_the_parents_copy_of_the_model_is_unloaded():
    patcher = model("flux").clone()
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher])
    assert patcher in [entry.model for entry in comfy.model_management.current_loaded_models]
    make_room(PoolOnGpu(0), patcher, MemoryNeed())
    assert patcher not in [entry.model for entry in comfy.model_management.current_loaded_models]
