"""Every exchange in real processes with a wire that compresses: what arrives, and what both ends then hold."""

import hashlib
from functools import partial

import pytest
import torch
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.residual_wire import OWN, make_wire
from compact_parallel.runtime.compression.wire import Tag
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from distributed import launch
from sequence_parts import TAG, axes, relative_error

HEADS, DIM, LENGTHS, CALLS = 12, 8, (7, 30), 5
IMAGE = Tag("final_layer", "tokens", TAG.slots, sensitive=True)
CONFIGS = {
    "int8": {"mode": "codec", "codec": "int8", "keep_text_exact": True},
    "2bit": {"mode": "codec", "codec": "2bit"},
    "quality": {"mode": "quality", "max_relative_error": 0.03},
}
LIMITS = {"int8": 0.01, "2bit": 0.35, "quality": 0.03}
"""What the relative error of K and V of other ranks may be."""


def whole(call):
    """q, k, v of all tokens (3, B, N, C), which drift unevenly: a rate that goes by the error finds work to do."""
    generator = torch.Generator().manual_seed(2)
    start, trend = torch.randn(2, 3, 2, sum(LENGTHS), HEADS * DIM, generator=generator)
    return start + (0.05 * call + (call == 3)) * trend


class Recorder:
    """An attention function that remembers what it was given: (q, k, v) of each head chunk."""

    __name__ = "attention_pytorch"

    def __init__(self):
        self.given = []

    def __call__(self, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False):
        self.given.append((q, k, v))
        q, k, v = (x.unflatten(2, (-1, DIM)).transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def digests(wire, rank):
    """{(slot, layer, name, tensor, owner, shape, number of the message): hash of the bases} of this rank."""
    found = {}
    for (slot, layer, name, index, source, shape), stream in wire._streams.items():
        content = b"".join(base.data.view(torch.uint8).numpy().tobytes() for base in stream.bases)
        owner = rank if source == OWN else source
        key = slot, layer, name, index, owner, str(shape), stream._sequence
        found[key] = hashlib.sha256(content).hexdigest()
    return found


def arrived(attention, layout, call, given):
    """Errors of the K and V an attention was `given`: of own tokens, of others' text, of all others' tokens."""
    group, member = attention.ulysses.size, attention.ulysses.index
    order = layout.gathered(torch.arange(layout.total), 0, group)
    own = torch.cat([torch.arange(*span) for span in layout.ranges(attention.shard_index)])
    own, text = torch.isin(order, own), order < LENGTHS[0]
    errors = [0.0, 0.0, 0.0]
    for n in (1, 2):
        k = torch.cat([chunk[n] for chunk in given], dim=2)
        expected = whole(call)[n][:, order].tensor_split(group, dim=2)[member]
        for place, tokens in enumerate((own, text & ~own, ~own)):
            errors[place] = max(errors[place], relative_error(k[:, tokens], expected[:, tokens]))
    return errors


def run_calls(rank, degrees, exchange, config, overlap=True, spoil=False):
    """One job: its digests, errors of K and V by call, errors of outputs by call, hashes of the gathered tokens."""
    ulysses, ring = degrees
    ledger, layout = Ledger(), TokenLayout(LENGTHS, ulysses.size * ring.size)
    wire = make_wire(CompressionConfig(**CONFIGS[config]), ledger, CALLS)
    held, inside, outputs, tokens = {}, [], [], []
    with SequenceAttention(ulysses, ring, exchange, wire, ledger, overlap, 1) as attention:
        for call in range(CALLS):
            ledger.begin_call(call, 0.0)
            function, local = Recorder(), [layout.split_joint(x, 1, attention.shard_index) for x in whole(call)]
            out = attention(function, *local, HEADS, layout=layout, tag=TAG)
            if exchange == "all_gather":
                inside.append(arrived(attention, layout, call, function.given))
            expected = layout.split_joint(Recorder()(*whole(call), HEADS), 1, attention.shard_index)
            outputs.append(relative_error(out, expected))
            gathered = attention.gather_tokens(local[0], layout, 1, IMAGE)
            tokens.append(
                (hashlib.sha256(gathered.numpy().tobytes()).hexdigest(), relative_error(gathered, whole(call)[0]))
            )
            if spoil and call == 2:
                stream = next(stream for key, stream in wire._streams.items() if key[4] != OWN)
                value = stream.bases[0].data.view(-1)[:1]
                value.copy_(torch.nextafter(value, value + 1))
            held |= digests(wire, rank)
    return held, inside, outputs, tokens, ledger.to_json()["calls"]


def run_cases(rank, world, ways):
    """{(exchange, ulysses, ring, config): what `run_calls` gives}."""
    by_degrees = {degrees: axes(rank, *degrees) for degrees in dict.fromkeys(way[1:] for way in ways)}
    found = {}
    for exchange, *degrees in ways:
        run = partial(run_calls, rank, by_degrees[tuple(degrees)], exchange)
        found |= {(exchange, *degrees, config): run(config) for config in CONFIGS}
    found["spoiled"] = run("2bit", spoil=rank == 0)
    found["in one go"] = run("2bit", overlap=False)
    return found


WAYS = {
    2: [("all_gather", 1, 2), ("ring", 1, 2), ("displaced", 1, 2), ("all_gather", 2, 1)],
    3: [("all_gather", 1, 3), ("ring", 1, 3), ("displaced", 1, 3), ("all_gather", 3, 1)],
    4: [("ring", 2, 2), ("displaced", 2, 2), ("all_gather", 2, 2)],
}


@pytest.fixture(scope="module", params=WAYS, ids=lambda world: f"{world} ranks")
def results(request, tmp_path_factory):
    """{case: what each rank says}."""
    ranks = launch(run_cases, request.param, tmp_path_factory.mktemp("ranks"), WAYS[request.param])
    return {case: [rank[case] for rank in ranks] for case in ranks[0]}


def by_holders(ranks):
    """{key of a digest: digests of the ranks that hold it}."""
    holders = {}
    for held, *_ in ranks:
        for key, digest in held.items():
            holders.setdefault(key, []).append(digest)
    return holders


def test_both_ends_hold_the_same_at_every_message(results):
    for case, ranks in results.items():
        holders = by_holders(ranks)
        unequal = [key for key, digests in holders.items() if len(set(digests)) > 1]
        assert bool(unequal) == (case == "spoiled"), case
        alone = [key for key, digests in holders.items() if len(digests) == 1]
        # What was sent last is still on its way when a displaced job ends.
        assert all(case[0] == "displaced" and key[-1] == CALLS for key in alone)
        assert {key[-1] for key in holders} == set(range(1, CALLS + 1))


def test_own_chunks_are_exact_and_others_within_the_bound(results):
    for case, ranks in results.items():
        config = case[-1]
        for _, inside, outputs, _, _ in ranks if config in LIMITS else ():
            for own, text, others in inside:
                assert own == 0.0
                assert (text == 0.0) == (config == "int8")  # keep_text_exact
                assert 0.0 < others < LIMITS[config] * (2.1 if case[1] > 1 and case[2] > 1 else 1)  # coded twice
            if case[0] != "displaced":
                assert 0.0 < max(outputs) < 2 * LIMITS[config]


def test_gathered_tokens_are_the_same_bits_everywhere(results):
    for ranks in results.values():
        for said in zip(*(tokens for *_, tokens, _ in ranks)):
            assert len(set(said)) == 1
            assert said[0][1] < 0.01
