"""Every family on a simulated card: split over two ranks it is exact, and no tensor meets one of another device."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from device import DEVICE, EXACT
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes, batch_of
from simulated_card import Mismatch, SimulatedCard
from tiny_diffusion import cascade, cases, needs_comfyui, unet

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
    for number, (name, (build, given)) in enumerate(every_case().items()):
        way = ways[number % len(ways)]
        module, slots = build(), slots_of(name, given)
        whole = evaluate_whole(split_over_ranks(module, attention_of(by_degrees, way)), **given)
        with SimulatedCard() as card:
            card.put(module)
            sharding = split_over_ranks(module, attention_of(by_degrees, way))
            try:
                split = evaluate_split(sharding, slots, **card.put(given))
                found[name, way] = difference(card.take(split), whole)
            except Mismatch as mismatch:
                found[name, way] = str(mismatch)
    build, given = cases()["flux"]
    with SimulatedCard() as card:
        module = card.put(build())
        module.img_in.register_forward_hook(made_on_the_cpu)
        sharding = split_over_ranks(module, attention_of(by_degrees, ways[0]))
        with pytest.raises(Mismatch):
            evaluate_split(sharding, SLOTS[: batch_of(given)], **card.put(given))
    return found


def every_case():
    """Those whose tokens are split, and the UNets."""
    return cases() | unet.cases() | cascade.cases()


def slots_of(name, given):
    """One cond per batch entry; of a UNet two conds, each of a film where the batch is its frames."""
    rows = name in unet.cases() | cascade.cases()
    return batch_slots({"uuids": ["first", "second"]}, len(given["x"])) if rows else SLOTS[: batch_of(given)]


def attention_of(by_degrees, way):
    return SequenceAttention(*by_degrees[way[:2]], way[2], RawWire(), Ledger())


def test_no_tensors_of_two_devices_meet(tmp_path):
    for found in launch(families_on_the_card, 2, tmp_path, WAYS, timeout_s=600):
        assert {name for name, _ in found} == set(every_case())
        assert {case: error for case, error in found.items() if isinstance(error, str) or not error < EXACT} == {}
