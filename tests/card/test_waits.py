"""How often a model call makes the host wait for the card, counted on a simulated one with a simulated NCCL."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from device import DEVICE
from distributed import launch
from evaluating import evaluate_split
from sequence_parts import axes, batch_of
from simulated_card import SimulatedCard
from tiny_diffusion import cases, needs_comfyui, unet

pytestmark = [needs_comfyui, pytest.mark.skipif(DEVICE != "cpu", reason="here are real cards")]
ENTRIES = batch_slots({"uuids": ["first", "second"]}, 2)
WAYS = [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather")]
MOST = 2
"""The most waits of a model call, whatever the number of layers and messages."""


MASKED = ["flux, mask", "hunyuan, mask of the text", "lens, mask of the text, ControlNet", "qwen, mask of the text"]


@contextmanager
def waiting_layer(module):
    """Hooks that wait on purpose: one `.item()` in every linear layer."""
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    handles = [layer.register_forward_hook(lambda layer, args, x: x * x.sum().item()) for layer in layers]
    yield
    for handle in handles:
        handle.remove()


def order_of_the_host(layout, x, dim, group=1):
    """`TokenLayout.gathered` by indices, which every masked attention copies to the card."""
    spans = [span for shard in range(layout.shards // group) for span in layout.ranges(shard, group)]
    return x.index_select(dim, torch.cat([torch.arange(*span) for span in spans]).to(x.device))


SPOILS = {"layer": waiting_layer, "order": lambda module: mock.patch.object(TokenLayout, "gathered", order_of_the_host)}


@torch.inference_mode()
def waits_of_a_call(rank, world, config, families, spoil):
    """{(family, way, whether it is spoilt): waits by place of the fourth call}. `spoil` is one of SPOILS."""
    found, every_case = {}, cases() | unet.cases()
    for family in families:
        build, given = every_case[family]
        for way in WAYS:
            for spoilt, spoiling in ((False, nullcontext), (True, SPOILS[spoil])):
                ledger = Ledger()
                wire = make_wire(config, ledger, 8)
                attention = SequenceAttention(*axes(rank, *way[:2]), way[2], wire, ledger)
                with SimulatedCard() as card:
                    module = card.put(build())
                    sharding = split_over_ranks(module, attention)
                    with attention, spoiling(module):
                        for _ in range(4):
                            card.reset()
                            evaluate_split(sharding, ENTRIES[: batch_of(given)], **card.put(given))
                    found[family, way, spoilt] = dict(card.waits)
    return found


@pytest.mark.parametrize(("families", "spoil"), [(["flux", "wan", "sd3", "unet xl"], "layer"), (MASKED, "order")])
def test_exact_exchanges_make_nobody_wait(tmp_path, families, spoil):
    for found in launch(waits_of_a_call, 2, tmp_path, CompressionConfig(mode="off"), families, spoil):
        totals = {case: sum(waits.values()) for case, waits in found.items()}
        assert {case: found[case] for case, total in totals.items() if not case[2] and total > MOST} == {}
        spoilt = [total for (*_, spoilt), total in totals.items() if spoilt]
        assert min(spoilt) > 0 and max(spoilt) > MOST
