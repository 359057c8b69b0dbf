"""How often a model call makes the host wait for the card, and what a message launches, counted on a simulated card.

The transport is a simulated NCCL: the device waits for messages, not the host. Kernels run in Triton's interpreter.
"""

from __future__ import annotations

import contextlib
import dataclasses
from itertools import product

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.kernels import ops
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import Spec
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.parallel.agreement import Agreement
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from device import DEVICE
from distributed import launch
from evaluating import evaluate_split
from sequence_parts import axes, batch_of
from simulated_card import SimulatedCard
from stepping import PlentyOfMemory
from tiny_diffusion import cases, needs_comfyui, unet
from wire_link import TAG, Link, drift

pytestmark = [
    needs_comfyui,
    pytest.mark.skipif(DEVICE != "cpu", reason="here are real cards"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
ENTRIES = batch_slots({"uuids": ["first", "second"]}, 2)
WAYS = [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather"), (1, 2, "displaced")]
CONFIGS = {
    "off": CompressionConfig(mode="off"),
    "2bit": CompressionConfig(mode="codec", codec="2bit"),
    "int8, exact text": CompressionConfig(mode="codec", codec="int8", keep_text_exact=True),
    "top_k": CompressionConfig(mode="codec", codec="top_k"),
    "ratio": CompressionConfig(mode="ratio", ratio=6.0),
}
MOST = 2
"""The most waits of a model call, whatever the number of layers and messages."""
LAUNCHES = {"pack": 4, "unpack": 3}
"""The most kernels of a message, for all its tensors together."""


@torch.inference_mode()
def waits_of_a_call(rank, world, families, ways, codecs, kernels=False, on_purpose=False):
    """{(family, way, codec): waits by place of the fourth call, from the agreement to the settled wire}.

    `kernels`: with Triton's, which the interpreter runs slowly. `on_purpose`: hooks of the model wait.
    """
    if not kernels:
        ops.usable = lambda codec, channels, device: False
    return {
        (family, way, codec): _waits(rank, *{**cases(), **unet.cases()}[family], way, CONFIGS[codec], on_purpose)
        for family, way, codec in product(families, ways, codecs)
    }


def _waits(rank, build, given, way, config, on_purpose):
    ledger = Ledger()
    attention = SequenceAttention(*axes(rank, *way[:2]), way[2], make_wire(config, ledger, 8), ledger)
    with SimulatedCard() as card:
        module = card.put(build())
        if on_purpose:
            for layer in [m for m in module.modules() if isinstance(m, torch.nn.Linear)]:
                layer.register_forward_hook(lambda module, args, output: output + 0 * output.sum().item())
        agreement = Agreement(PlentyOfMemory(), ledger, lambda: False)
        return _count(card, split_over_ranks(module, attention), agreement, card.put(given))


def _count(card, sharding, agreement, given):
    x, *rest = given.values()
    named = dict(zip(list(given)[1:], rest))

    def model(x, timestep):
        output = evaluate_split(sharding, ENTRIES[: batch_of(given)], **{next(iter(given)): x}, **named)
        sharding.attention.wire.settle()
        return output

    with sharding.attention:
        for _ in range(4):
            card.reset()
            agreement(model, x, card.put(torch.tensor([0.5])))
        return dict(card.waits)


def waits_of_ours(found):
    """{case: waits in our code}; ComfyUI's models have some of their own."""
    return {
        case: sum(count for (_, place), count in waits.items() if place.startswith("runtime/"))
        for case, waits in found.items()
    }


def test_a_model_call_waits_twice_at_most(tmp_path):
    """Whatever the exchange and the codec; with `displaced` only without compression, as its next message is expected
    before the last one could be read."""
    for found in launch(waits_of_a_call, 2, tmp_path, ["flux"], WAYS[:3], list(CONFIGS), timeout_s=500):
        assert {case: count for case, count in waits_of_ours(found).items() if not 0 < count <= MOST} == {}
    for found in launch(waits_of_a_call, 2, tmp_path, ["flux"], WAYS[3:], ["off"], timeout_s=500):
        assert all(0 < count <= MOST for count in waits_of_ours(found).values())


def test_so_do_models_of_other_families(tmp_path):
    """Tokens, two streams, and rows."""
    families = ["wan", "sd3", "unet xl, odd"]
    for found in launch(waits_of_a_call, 2, tmp_path, families, WAYS[:1], ["off", "2bit"], timeout_s=500):
        assert {case: count for case, count in waits_of_ours(found).items() if not 0 < count <= MOST} == {}


def test_a_model_call_with_kernels_waits_twice_at_most(tmp_path):
    for found in launch(waits_of_a_call, 2, tmp_path, ["flux"], WAYS[:1], ["2bit"], True, timeout_s=500):
        assert all(0 < count <= MOST for count in waits_of_ours(found).values()), found


def test_waits_that_are_there_are_counted(tmp_path):
    """The negative control: one .item() in each layer."""
    for found in launch(waits_of_a_call, 2, tmp_path, ["flux"], WAYS[:1], ["off", "2bit"], False, True):
        assert all(sum(waits.values()) > MOST for waits in found.values())


@torch.inference_mode()
def messages(rank, world, configs):
    """{name: {what: (waits, launches by place)}} of the fourth message of K and V of two entries; and of settling."""
    return {name: _message(config) for name, config in configs.items()}


def _message(config):
    tag, found = dataclasses.replace(TAG, slots=(("cond", 0), ("uncond", 0))), {}
    with SimulatedCard() as card:
        link = Link(**config)
        for k, v in zip(drift(4, n=4, c=16), drift(4, n=4, c=16, seed=1)):
            kv = card.put([torch.cat([x, x + 1]) for x in (k, v)])
            spec, out = Spec.of(kv, tag), [torch.empty_like(x) for x in kv]
            with _counted(card, found, "pack"):
                payload = link.sender.pack(kv, spec)
            with _counted(card, found, "unpack"):
                link.receiver.expect(0, spec).unpack(payload, out)
            with _counted(card, found, "settle"):
                link.sender.settle()
            link.receiver.settle()
    return found


@contextlib.contextmanager
def _counted(card, found, what):
    card.reset()
    yield
    found[what] = card.waits.total(), dict(card.launches)


def test_what_a_message_launches(tmp_path):
    """Kernels for all its tensors together. One wait per message with a bound on the error, if that is met."""
    coded = {name: {"codec": name} for name in ("2bit", "3bit", "fp8")}
    bounded = {"quality": {"mode": "quality", "max_relative_error": 0.9}}
    (found,) = launch(messages, 1, tmp_path, coded | bounded, timeout_s=300)
    for name in coded:
        for what, most in LAUNCHES.items():
            waits, launches = found[name][what]
            assert waits == 0, (name, what)
            assert 0 < sum(launches.values()) <= most, (name, what, launches)
        assert found[name]["settle"][0] == 1
    assert [found["quality"][what][0] for what in ("pack", "unpack", "settle")] == [1, 1, 0]
