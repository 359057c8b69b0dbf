"""How often a model call with a mask makes the host wait for the card: never for what the mask needs."""

from __future__ import annotations

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from device import DEVICE
from distributed import launch
from evaluating import evaluate_split
from sequence_parts import axes, batch_of
from simulated_card import SimulatedCard
from tiny_diffusion import cases, needs_comfyui

pytestmark = [needs_comfyui, pytest.mark.skipif(DEVICE != "cpu", reason="here are real cards")]
ENTRIES = batch_slots({"uuids": ["first", "second"]}, 2)
WAYS = [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather")]
MASKED = ["flux, mask", "hunyuan, mask of the text", "lens, mask of the text, ControlNet", "qwen, mask of the text"]


def order_of_the_host(layout, x, dim, group=1):
    """`TokenLayout.gathered` by indices, which every masked attention copies to the card."""
    spans = [span for shard in range(layout.shards // group) for span in layout.ranges(shard, group)]
    return x.index_select(dim, torch.cat([torch.arange(*span) for span in spans]).to(x.device))


@torch.inference_mode()
def waits_of_a_call(rank, world, spoilt):
    """{(case, way): waits of the fourth call}; if `spoilt`, the order of the keys comes from the host."""
    found, every_case = {}, cases()
    for case in MASKED:
        build, given = every_case[case]
        for way in WAYS:
            attention = SequenceAttention(*axes(rank, *way[:2]), way[2], RawWire(), Ledger())
            spoil = mock.patch.object(TokenLayout, "gathered", order_of_the_host) if spoilt else nullcontext()
            with SimulatedCard() as card, spoil, attention:
                sharding = split_over_ranks(card.put(build()), attention)
                for _ in range(4):
                    card.reset()
                    evaluate_split(sharding, ENTRIES[: batch_of(given)], **card.put(given))
                found[case, way] = dict(card.waits)
    return found


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_mask_makes_nobody_wait(tmp_path, spoilt):
    for found in launch(waits_of_a_call, 2, tmp_path, spoilt, timeout_s=300):
        for case, waits in found.items():
            assert (sum(waits.values()) > 0) == spoilt, (case, waits)
