"""Messages in real processes: second parts, what the ledger says of them, and wires that do wrong."""

from dataclasses import replace

import pytest
import torch
from compact_parallel.runtime.attention.axis import Watcher
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.ulysses import head_chunks
from compact_parallel.runtime.compression.residual_wire import ResidualWire, make_rate
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from distributed import launch
from sequence_parts import TAG, axes, relative_error

HEADS, DIM, LENGTHS = 4, 16, (6, 26)
TOKENS = replace(TAG, name="tokens", sensitive=True)
WAYS = {"all_gather": (1, 2), "ring": (1, 2), "displaced": (1, 2), "ulysses": (2, 1)}


@pytest.mark.parametrize("members,heads,kv_heads,count", [(1, 12, 12, 4), (2, 24, 6, 3), (2, 10, 10, 4), (3, 6, 3, 1)])
def test_chunks_cover_every_head_once_and_queries_go_with_their_keys(members, heads, kv_heads, count):
    chunks = head_chunks(members, kv_heads, count)
    sizes = [chunk.last - chunk.first for chunk in chunks]
    assert len(chunks) == count and max(sizes) - min(sizes) <= 1
    for total in (heads, kv_heads):
        taken = [range(total)[chunk.of(member, total)] for member in range(members) for chunk in chunks]
        assert [head for part in taken for head in part] == list(range(total))
    for chunk in chunks:
        kv = range(kv_heads)[chunk.of(members - 1, kv_heads)]
        assert {head * kv_heads // heads for head in range(heads)[chunk.of(members - 1, heads)]} == set(kv)


def test_seconds_of_transfers_at_the_same_time_are_hidden_once():
    watcher = Watcher()
    assert watcher.hidden(started=0.0, done=4.0, asked=3.0) == 3.0
    assert watcher.hidden(started=1.0, done=6.0, asked=9.0) == 2.0
    assert watcher.hidden(started=2.0, done=5.0, asked=9.0) == 0.0
    assert watcher.hidden(started=8.0, done=9.0, asked=10.0) == 1.0


class SwappedWire(RawWire):
    """Puts the K and V of one head chunk the wrong way round."""

    def expect(self, source, spec):
        message, name = super().expect(source, spec), spec.tag.name
        if len(spec.shapes) > 1 and ("heads" not in name or "heads 0-0" in name):
            unpack = message.unpack
            message.unpack = lambda payload, out: unpack(payload, [*reversed(out)])
        return message


class CountedWire(ResidualWire):
    """Remembers the bytes of the first and second parts it packed."""

    def __init__(self, config, ledger):
        super().__init__(config, ledger, make_rate(config, ledger, 4))
        self.packed = [0, 0]

    def pack(self, tensors, spec):
        payload = super().pack(tensors, spec)
        first = len(payload.first)
        self.packed = [total + more for total, more in zip(self.packed, (first, payload.nbytes - first))]
        return payload


class SelfishWire(CountedWire):
    """Keeps what it gathers exact."""

    def pack_shared(self, tensors, spec):
        return super().pack_shared(tensors, spec)[0], list(tensors)


def attention_pytorch(q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False):
    q, k, v = (x.unflatten(2, (-1, DIM)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def whole(call):
    """q, k, v of all tokens (3, B, N, C); at call 2 they are others."""
    generator = torch.Generator().manual_seed(call // 2)
    return torch.randn(3, 2, sum(LENGTHS), HEADS * DIM, generator=generator)


def run_wires(rank, world):
    """{(wire, way, overlap): (errors of four calls, the ledger, bytes packed, the gathered tokens)}."""
    layout, found = TokenLayout(LENGTHS, world), {}
    config = CompressionConfig(mode="quality", max_relative_error=0.02)
    by_degrees = {degrees: axes(rank, *degrees) for degrees in dict.fromkeys(WAYS.values())}
    makers = {"raw": lambda _: RawWire(), "swapped": lambda _: SwappedWire()}
    makers |= {
        "coded": lambda ledger: CountedWire(config, ledger),
        "selfish": lambda ledger: SelfishWire(config, ledger),
    }
    for (name, make), (way, degrees), overlap in (
        (maker, way, overlap) for maker in makers.items() for way in WAYS.items() for overlap in (True, False)
    ):
        ledger, errors = Ledger(), []
        exchange = "all_gather" if way == "ulysses" else way
        with SequenceAttention(*by_degrees[degrees], exchange, make(ledger), ledger, overlap, 1) as attention:
            for call in range(4):
                local = [layout.split_joint(x, 1, rank) for x in whole(call)]
                out = attention(attention_pytorch, *local, HEADS, layout=layout, tag=TAG)
                expected = attention_pytorch(*whole(call), HEADS)
                errors.append(relative_error(out, layout.split_joint(expected, 1, rank)))
            record, packed = ledger.to_json()["outside"], getattr(attention.wire, "packed", None)
            tokens = attention.gather_tokens(local[0], layout, 1, TOKENS)
        found[name, way, overlap] = errors, record, packed, tokens
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return launch(run_wires, 2, tmp_path_factory.mktemp("ranks"))


def test_one_wrong_head_chunk_is_seen(results):
    for found in results:
        for (name, way, _), (errors, *_) in found.items():
            if name in ("raw", "swapped"):
                fresh = errors[:2] if way == "displaced" else errors
                assert (max(fresh) < 1e-6) == (name == "raw")
                assert (min(fresh) > 1e-2) == (name == "swapped")


def test_second_parts_travel_and_keep_the_quality(results):
    for found in results:
        for (name, way, _), (errors, record, packed, _) in found.items():
            if name == "coded":
                assert min(packed) > 0
                assert record["bytes_sent"] == sum(packed)
                assert 0 < max(errors[:2] if way == "displaced" else errors) < 0.04


def test_what_was_hidden_and_what_was_not(results):
    for found in results:
        for (_, way, overlap), (_, record, _, _) in found.items():
            assert record["seconds"]["exposed"] > 0
            assert (record["hidden_seconds"] > 0) == (overlap or way == "displaced")


def test_gathered_tokens_differ_where_a_rank_keeps_its_own(results):
    for case, (*_, tokens) in results[0].items():
        same = torch.equal(tokens, results[1][case][-1])
        assert same == (case[0] != "selfish")
