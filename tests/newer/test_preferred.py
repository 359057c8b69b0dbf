"""An attention function that a checkpoint prefers, on a ComfyUI that has such (see conventions.py)."""

from __future__ import annotations

import comfy.ldm.modules.attention as attention
import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from distributed import launch
from evaluating import evaluate_split
from sequence_parts import axes, batch_of
from tiny_diffusion import cases, unet

pytestmark = pytest.mark.skipif(not hasattr(attention, "ComfyAttention"), reason="this ComfyUI knows no preferences")
LIMIT = 1e-5
FAMILIES = ("wan", "pixart", "lumina")


def halved(q, k, v, heads, *args, **kwargs):
    """An attention with half of the usual scale."""
    return attention.attention_pytorch(q * 0.5, k, v, heads, *args, **kwargs)


def other(q, k, v, heads, *args, **kwargs):
    """Another one."""
    return attention.attention_pytorch(q * 0.7, k, v, heads, *args, **kwargs)


def preferring(module, *functions):
    """`module`, whose attention modules prefer these functions in turn; how many they are."""
    found = [part for part in module.modules() if isinstance(part, attention.ComfyAttention)]
    wrapped = [attention.wrap_attn(function) for function in functions]
    for place, part in enumerate(found):
        part.function = wrapped[place % len(wrapped)]
    return len(found)


@torch.inference_mode()
def errors(rank, world):
    """{family: (error of the split module, what the preference changes)}."""
    found = {}
    chosen = {name: case for name, case in cases().items() if name in FAMILIES}
    for name, (build, given) in (chosen | dict(list(unet.cases().items())[:1])).items():
        module = build()
        plain = module(**given)
        assert preferring(module, halved)
        whole = module(**given)
        ring = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
        slots = batch_slots({"uuids": ["first", "second"]}, 2)[: batch_of(given)]
        split = evaluate_split(split_over_ranks(module, ring), slots, **given)
        found[name] = difference(split, whole), difference(plain, whole)
    return found


def test_the_split_model_attends_as_the_checkpoint_prefers(tmp_path):
    for found in launch(errors, 2, tmp_path):
        assert len(found) == len(FAMILIES) + 1
        assert {name: pair for name, pair in found.items() if not pair[0] < LIMIT} == {}
        assert {name: pair for name, pair in found.items() if not pair[1] > 100 * LIMIT} == {}


@torch.inference_mode()
def refusal(rank, world):
    """The sentence where one module has two preferences."""
    build, given = cases()["sd3"]  # of which a block has one for the text and one for the picture
    module = build()
    preferring(module, halved, other)
    ring = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    try:
        evaluate_split(split_over_ranks(module, ring), batch_slots({"uuids": ["first", "second"]}, 2), **given)
    except Unsupported as error:
        return str(error)
    return ""


def test_two_preferences_in_one_module_are_refused(tmp_path):
    for sentence in launch(refusal, 2, tmp_path):
        assert "several attention functions of a checkpoint" in sentence
