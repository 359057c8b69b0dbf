"""What devices "auto" means, from plain facts of a machine: no card is needed."""

from __future__ import annotations

import pytest
from compact_parallel.runtime.planner.auto_devices import Card, Machine, auto_devices

GB = 1 << 30


def cards(*facts):
    """Cards from (GB, generation) or (GB, generation, integrated)."""
    return tuple(Card(index, f"card {index}", fact[0] * GB, *fact[1:]) for index, fact in enumerate(facts))


@pytest.mark.parametrize(
    ("facts", "devices", "left_out"),
    [
        ((), ("cpu", "cpu"), ""),
        (((24, 8),), ("cuda:0",), ""),
        (((24, 8), (24, 8), (24, 8)), ("cuda:0", "cuda:1", "cuda:2"), ""),
        (((24, 8), (12, 8)), ("cuda:0", "cuda:1"), ""),
        (((24, 8), (11, 8)), ("cuda:0",), "cuda:1 (card 1, which has less than half of the memory of cuda:0)"),
        (((8, 8), (24, 8)), ("cuda:1",), "cuda:0 (card 0, which has less than half of the memory of cuda:1)"),
        (((24, 8), (32, 12)), ("cuda:1",), "cuda:0 (card 0, which is of another generation than cuda:1)"),
        (((16, 11), (64, 11, True)), ("cuda:0",), "cuda:1 (card 1, which is part of the processor)"),
        (((64, 12, True),), ("cuda:0",), ""),
        (((24, 8), (24, 8), (4, 7)), ("cuda:0", "cuda:1"), "cuda:2 (card 2, which has less than half of"),
        (((24, 8), (4, 8), (4, 8)), ("cuda:0",), ") and cuda:2 ("),
    ],
)
def test_auto_takes_about_equal_cards_and_says_what_it_leaves_out(facts, devices, left_out):
    found, said = auto_devices(Machine(cards(*facts)))
    assert found == devices
    assert left_out in said and bool(left_out) == bool(said)
    assert not said or (said.startswith("auto left out cuda:") and said.endswith("to use them all the same."))


@pytest.mark.parametrize("kind", ["xpu", "mps", "DirectML"])
def test_a_kind_of_device_that_workers_cannot_use_is_one_device(kind):
    devices, said = auto_devices(Machine(other=kind))
    assert devices == (kind,)
    assert said.startswith(f"ComfyUI computes on {kind} here, which workers cannot use")
    assert not Machine(other=kind).has_workers and Machine().has_workers


@pytest.mark.parametrize(("facts", "device"), [((), "cpu"), (((24, 8), (24, 8)), "cuda:0")])
def test_workers_that_cannot_talk_are_one_device(facts, device):
    devices, said = auto_devices(Machine(cards(*facts), talks=False))
    assert devices == (device,)
    assert "built without its distributed package" in said
    assert not Machine(talks=False).has_workers
