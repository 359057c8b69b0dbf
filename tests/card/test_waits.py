"""How often a model call makes the host wait for the card, counted on a simulated one with a simulated NCCL."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from device import DEVICE
from distributed import launch
from evaluating import evaluate_split
from sequence_parts import axes, batch_of
from simulated_card import SimulatedCard
from tiny_diffusion import cases, needs_comfyui

pytestmark = [needs_comfyui, pytest.mark.skipif(DEVICE != "cpu", reason="here are real cards")]
ENTRIES = batch_slots({"uuids": ["first", "second"]}, 2)
WAYS = [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather")]
MOST = 2
"""The most waits of a model call, whatever the number of layers and messages."""


@torch.inference_mode()
def waits_of_a_call(rank, world, config, families):
    """{(family, way, whether a hook waits on purpose): waits by place of the fourth call}."""
    found = {}
    for family in families:
        build, given = cases()[family]
        for way in WAYS:
            for on_purpose in (False, True):
                ledger = Ledger()
                wire = make_wire(config, ledger, 8)
                attention = SequenceAttention(*axes(rank, *way[:2]), way[2], wire, ledger)
                with SimulatedCard() as card:
                    module = card.put(build())
                    if on_purpose:
                        layer = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
                        layer.register_forward_hook(lambda module, args, output: output * output.sum().item())
                    sharding = TokenSharding(module, plan_for(module), attention)
                    with attention:
                        for _ in range(4):
                            card.reset()
                            evaluate_split(sharding, ENTRIES[: batch_of(given)], **card.put(given))
                    found[family, way, on_purpose] = dict(card.waits)
    return found


def test_exact_exchanges_make_nobody_wait(tmp_path):
    for found in launch(waits_of_a_call, 2, tmp_path, CompressionConfig(mode="off"), ["flux", "wan"]):
        for (family, way, on_purpose), waits in found.items():
            if on_purpose:
                assert sum(waits.values()) > 0, "a wait that is there is counted"
            else:
                assert sum(waits.values()) <= MOST, (family, way, waits)
