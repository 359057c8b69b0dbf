"""Real processes over gloo: every sender and all its receivers hold bitwise equal bases, call after call."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torch.distributed as dist
from compact_parallel.runtime.compression.residual_wire import OWN, make_wire
from compact_parallel.runtime.compression.wire import Payload, Spec, Tag
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from distributed import launch

CALLS = 10
LAYERS = ("blocks.0.attn", "blocks.1.attn")
BATCHES = [(("a", 0), ("b", 0)), (("b", 0), ("a", 0)), (("a", 0),), (("b", 0), ("c", 0), ("c", 1))]


def tokens(source, call):
    """Unequal chunks, and another picture size from call 6 on."""
    return (33 if source else 34) + (16 if call >= 6 else 0)


def path(source, call, slot, dtype):
    """The K/V of one slot on one rank at one call: (N, C), drifting."""
    seed = hash((source, tokens(source, call))) % 1000 + 7 * ord(slot[0]) + slot[1]
    generator = torch.Generator().manual_seed(seed)
    start, trend = (torch.randn(tokens(source, call), 48, generator=generator) for _ in range(2))
    return (start + 0.1 * call * trend + 0.02 * torch.randn(start.shape, generator=generator)).to(dtype)


def digests(wire, rank):
    """What this rank holds: (slot, layer, tensor, source, shape) -> hash of the bases and the next codec."""
    held = {}
    for (slot, layer, _, index, source, shape), stream in wire._streams.items():
        content = b"".join(base.data.view(torch.uint8).numpy().tobytes() for base in stream.bases)
        owner = rank if source == OWN else source
        held[slot, layer, index, owner, str(shape)] = (stream.codec, hashlib.sha256(content).hexdigest())
    return held


def travel(part, sizes):
    """Sends one part of a message to every other rank and returns theirs."""
    arriving = {s: torch.empty(size, dtype=torch.uint8) for s, size in sizes.items() if size}
    pending = [dist.irecv(buffer, s) for s, buffer in arriving.items()]
    pending += [dist.isend(part, s) for s in sizes if part is not None]
    for request in pending:
        request.wait()
    return arriving


def swap(wire, rank, world, call, layer, dtype):
    """Every rank sends its K and V to all; returns the errors of what arrives."""
    slots = BATCHES[call % len(BATCHES)]
    tag = Tag(layer, "kv", slots, exact_tokens=3)
    tensors = {s: torch.stack([path(s, call, slot, dtype) for slot in slots]) for s in range(world)}
    specs = {s: Spec.of([tensors[s]] * 2, tag) for s in range(world)}
    payload = wire.pack([tensors[rank], -tensors[rank]], specs[rank])
    others = [s for s in range(world) if s != rank]
    expected = {s: wire.expect(s, specs[s]) for s in others}
    first = travel(payload.first, {s: expected[s].nbytes for s in others})
    supplements = travel(payload.supplements, {s: expected[s].supplements_nbytes(first[s]) for s in others})
    results = {s: [torch.empty_like(tensors[s]) for _ in range(2)] for s in others}
    for s in others:
        expected[s].unpack(Payload(first[s], supplements.get(s)), results[s])
    return [float((results[s][0] - tensors[s]).float().norm() / tensors[s].float().norm()) for s in others]


def run_calls(place, dtype, spoil_at=None, **config):
    """On `place`, (rank, world): ten calls of two layers; calls 3 and 4 leave the second out.

    Returns the digests after each call, and the last errors.
    """
    rank, world = place
    config = CompressionConfig(**{"mode": "codec", "keep_text_exact": True, **config})
    wire, history, errors = make_wire(config, Ledger(), CALLS), [], []
    for call in range(CALLS):
        for layer in LAYERS[: 1 if call in (3, 4) else 2]:
            errors = swap(wire, rank, world, call, layer, dtype)
        if call == spoil_at and rank == world - 1:
            stream = next(stream for key, stream in wire._streams.items() if key[4] != OWN)
            value = stream.bases[0].data.view(-1)[:1]
            value.copy_(torch.nextafter(value, value + 1))
        history.append(digests(wire, rank))
    return history, errors


def disagreements(results):
    """Calls after which two ranks hold different bases of one stream; every stream must be held by every rank."""
    calls = []
    for call in range(CALLS):
        first, *rest = (history[call] for history, _ in results)
        assert all(other.keys() == first.keys() for other in rest)
        if any(other != first for other in rest):
            calls.append(call)
    return calls


SMALL_GB = 400_000 / 2**30
CASES = {
    "2bit float32": {"dtype": torch.float32, "codec": "2bit"},
    "1bit bfloat16": {"dtype": torch.bfloat16, "codec": "1bit", "predictor": "previous"},
    "4bit float16": {"dtype": torch.float16, "codec": "4bit", "predictor": "least_squares"},
    "low rank": {"dtype": torch.float32, "codec": "low_rank", "rank": 4},
    "small bases": {"dtype": torch.bfloat16, "codec": "3bit", "base_memory_gb": SMALL_GB},
    "ratio 5": {"dtype": torch.float32, "mode": "ratio", "ratio": 5.0},
    "quality 3 %": {"dtype": torch.float32, "mode": "quality", "max_relative_error": 0.03},
    "spoiled": {"dtype": torch.float32, "codec": "2bit", "spoil_at": 5},
}


def run_cases(rank, world):
    """All cases one after the other in the same processes, as starting them takes longest."""
    return {name: run_calls((rank, world), **case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return launch(run_cases, 3, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", [name for name in CASES if name != "spoiled"])
def test_bases_are_bitwise_equal_on_all_ranks(results, case):
    results = [result[case] for result in results]
    assert disagreements(results) == []
    history, errors = results[0]
    assert {(slot, owner) for slot, _, _, owner, _ in history[-1]} == {
        (slot, owner) for batch in BATCHES for slot in batch for owner in range(3)
    }
    assert max(errors) < 0.3


def test_one_changed_bit_makes_them_unequal(results):
    """The negative control."""
    assert disagreements([result["spoiled"] for result in results])[0] == 5
