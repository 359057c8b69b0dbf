"""Every family on a simulated card: split over two ranks it is exact, and no tensor meets one of another device."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from device import DEVICE, EXACT
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes, batch_of
from simulated_card import Mismatch, SimulatedCard
from tiny_diffusion import cases, needs_comfyui

pytestmark = [needs_comfyui, pytest.mark.skipif(DEVICE != "cpu", reason="here are real cards")]
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)
WAYS = [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather")]


def made_on_the_cpu(module, args, output):
    """The negative control: a hook that adds a tensor of the wrong device."""
    return output + torch.ones(output.shape[-1])


@torch.inference_mode()
def families_on_the_card(rank, world, ways):
    """{(case, way): relative error, or the mismatch}. The cases take the ways in turn."""
    by_degrees = {way[:2]: axes(rank, *way[:2]) for way in ways}
    found = {}
    for number, (name, (build, given)) in enumerate(cases().items()):
        way = ways[number % len(ways)]
        module = build()
        plan = plan_for(module)
        whole = evaluate_whole(TokenSharding(module, plan, attention_of(by_degrees, way)), **given)
        with SimulatedCard() as card:
            card.put(module)
            sharding = TokenSharding(module, plan, attention_of(by_degrees, way))
            try:
                split = evaluate_split(sharding, SLOTS[: batch_of(given)], **card.put(given))
                found[name, way] = difference(card.take(split), whole)
            except Mismatch as mismatch:
                found[name, way] = str(mismatch)
    build, given = cases()["flux"]
    with SimulatedCard() as card:
        module = card.put(build())
        module.img_in.register_forward_hook(made_on_the_cpu)
        sharding = TokenSharding(module, plan_for(module), attention_of(by_degrees, ways[0]))
        with pytest.raises(Mismatch):
            evaluate_split(sharding, SLOTS[: batch_of(given)], **card.put(given))
    return found


def attention_of(by_degrees, way):
    return SequenceAttention(*by_degrees[way[:2]], way[2], RawWire(), Ledger())


def test_no_tensors_of_two_devices_meet(tmp_path):
    for found in launch(families_on_the_card, 2, tmp_path, WAYS, timeout_s=600):
        assert {name for name, _ in found} == set(cases())
        assert {case: error for case, error in found.items() if isinstance(error, str) or not error < EXACT} == {}
