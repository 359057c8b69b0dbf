"""Sequence attention in real processes against attention over the whole sequence."""

import itertools
from functools import partial

import pytest
import torch
from compact_parallel.runtime.attention.axis import exchange
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.report.ledger import Ledger
from distributed import launch
from sequence_parts import TAG, WatchedWire, axes, relative_error

HEADS, DIM, BATCH = 12, 8, 2


def attention_pytorch(
    q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, scale=None, enable_gqa=False
):
    """As ComfyUI's: (B, L, C), or (B, H, L, D) with skip_reshape."""
    if not skip_reshape:
        dim = q.shape[-1] // heads
        q, k, v = (x.unflatten(2, (-1, dim)).transpose(1, 2) for x in (q, k, v))
    if k.shape[1] != heads:
        assert enable_gqa
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=enable_gqa)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def masks(total):
    generator = torch.Generator().manual_seed(1)
    square = torch.rand(total, total, generator=generator) > 0.3
    return {
        "none": None,
        "(N, N) bool": square,
        "(B, N) bool": torch.rand(BATCH, total, generator=generator) > 0.3,
        "(B, N, N) additive": torch.randn(BATCH, total, total, generator=generator),
        "(B, 1, 1, N) additive": torch.zeros(BATCH, 1, 1, total).masked_fill_(~square[:1], -torch.inf),
        "(B, H, N, N) additive": torch.randn(BATCH, HEADS, total, total, generator=generator),
    }


def whole_inputs(lengths, kv_heads):
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    return [torch.randn(BATCH, total, heads * DIM, generator=generator) for heads in (HEADS, kv_heads, kv_heads)]


def heads_first(x):
    return x.unflatten(2, (-1, DIM)).transpose(1, 2)


def reference(lengths, kv_heads, mask, **kwargs):
    q, k, v = whole_inputs(lengths, kv_heads)
    if mask is not None and mask.shape == (BATCH, sum(lengths)):
        mask = mask[:, None, None]
    elif mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    return attention_pytorch(q, k, v, HEADS, mask=mask, **kwargs)


def case_error(attention, lengths, mask=None, kv_heads=HEADS, flat=True, function=attention_pytorch, **kwargs):
    """The relative error of this rank's tokens."""
    layout = TokenLayout(lengths, attention.shards)
    q, k, v = (layout.split_joint(x, 1, attention.shard_index) for x in whole_inputs(lengths, kv_heads))
    given = [q, k, v] if flat else [heads_first(x) for x in (q, k, v)]
    kwargs_in = {"skip_reshape": not flat, "skip_output_reshape": not flat, **kwargs}
    out = attention(function, *given, HEADS, layout=layout, tag=TAG, mask=mask, **kwargs_in)
    out = out if flat else out.transpose(1, 2).flatten(2)
    return relative_error(
        out, layout.split_joint(reference(lengths, kv_heads, mask, **kwargs), 1, attention.shard_index)
    )


def run_cases(rank, world, ways):
    """{((ulysses, ring, exchange, overlap), lengths, what): error} of this rank."""
    by_degrees = {degrees: axes(rank, *degrees) for degrees in dict.fromkeys(way[:2] for way in ways)}
    errors, chunks = {}, {}
    for way, lengths in itertools.product(ways, [(5, 11), (1, 13), (17,)]):
        (ulysses, ring), calls = by_degrees[way[:2]], []

        def counted(*args, calls=calls, **kwargs):
            calls.append(1)
            return attention_pytorch(*args, **kwargs)

        counted.__name__ = attention_pytorch.__name__
        with SequenceAttention(ulysses, ring, way[2], WatchedWire(), Ledger(), way[3], 1) as attention:
            case = partial(case_error, attention, lengths, function=counted)
            found = {what: case(mask) for what, mask in masks(sum(lengths)).items()}
            chunks[way] = len(calls) / len(found)
            found["heads first"] = case(flat=False)
            found["scale"] = case(scale=0.1)
            found["grouped"] = case(kv_heads=HEADS // 2, enable_gqa=True)
            layout = TokenLayout(lengths, world)
            everything = torch.arange(sum(lengths)).repeat(2, 1)
            local = layout.split_joint(everything, 1, attention.shard_index)
            gathered = attention.gather_tokens(local, layout, 1, TAG)
            found["gather_tokens"] = float(not torch.equal(gathered, everything))
        errors.update({(way, lengths, what): error for what, error in found.items()})
    return errors, chunks


def arrangements(ulysses, ring, overlaps=(True, False)):
    exchanges = ("all_gather", "ring", "displaced") if ring > 1 else ("all_gather",)
    return [(ulysses, ring, exchange, overlap) for exchange in exchanges for overlap in overlaps]


@pytest.mark.parametrize(
    "ways",
    [
        [*arrangements(1, 2), *arrangements(2, 1)],
        [*arrangements(1, 3, (True,)), *arrangements(3, 1, (True,))],
        [*arrangements(2, 2, (True,)), (2, 2, "all_gather", False)],
    ],
    ids=["2 ranks", "3 ranks", "4 ranks"],
)
def test_equals_attention_over_the_whole_sequence(tmp_path, ways):
    for errors, chunks in launch(run_cases, ways[0][0] * ways[0][1], tmp_path, ways):
        assert len(errors) == 30 * len(ways)
        assert {case: error for case, error in errors.items() if not error < 1e-6} == {}
        for (ulysses, _, way, overlap), count in chunks.items():
            alone = ulysses == 1 and way != "all_gather"
            by_torch = way == "ring"
            assert count == (0 if by_torch else 4 if overlap and not alone else 1)


def with_chunk_sizes(rank, world):
    """{way: the outputs with head chunks of these bytes}, and the number of calls of the attention function."""
    layout, lengths, found = TokenLayout((5, 11), 2), (5, 11), {}
    one, two = axes(rank, 1, 2), axes(rank, 2, 1)
    local = [layout.split_joint(x, 1, rank) for x in whole_inputs(lengths, HEADS)]
    for way, (ulysses, ring) in {"all_gather": one, "ulysses": two}.items():
        outs, counts = [], []
        for nbytes in (1 << 30, 6 << 10, 1):
            calls = []

            def counted(*args, calls=calls, **kwargs):
                calls.append(1)
                return attention_pytorch(*args, **kwargs)

            attention = SequenceAttention(ulysses, ring, "all_gather", WatchedWire(), Ledger(), True, nbytes)
            with attention:
                outs.append(attention(counted, *local, HEADS, layout=layout, tag=TAG))
            counts.append(len(calls))
        found[way] = outs, counts
    return found


def test_the_number_of_head_chunks_changes_no_bit(tmp_path):
    for found in launch(with_chunk_sizes, 2, tmp_path):
        assert found["all_gather"][1] == [1, 2, 4] and found["ulysses"][1] == [1, 1, 4]
        for (first, *others), _ in found.values():
            assert all(torch.equal(first, other) for other in others)
            assert not torch.equal(first, first.roll(1, 2))


def own_chunk_only(rank, world):
    """The exchange replaced by the own chunk: the same comparison must see it. Then what else two ranks can tell."""
    ulysses, ring = axes(rank, 1, 2)
    lengths, layout = (6, 10), TokenLayout((6, 10), 2)
    local = [layout.split_joint(x, 1, rank) for x in whole_inputs(lengths, HEADS)]
    expected = layout.split_joint(reference(lengths, HEADS, None), 1, rank)
    alone = relative_error(attention_pytorch(*local, HEADS), expected)

    wire, ledger = WatchedWire(), Ledger()
    ring_attention = SequenceAttention(ulysses, ring, "ring", wire, ledger)
    ring_attention(reference, *local, HEADS, layout=layout, tag=TAG)
    record = ledger.to_json()

    square = masks(16)["(N, N) bool"]
    unpermuted = SequenceAttention(ulysses, ring, "all_gather", wire, Ledger())
    object.__setattr__(unpermuted, "_gathered_mask", lambda mask, *_: mask[None, None, rank * 8 : rank * 8 + 8])
    wrong_mask = unpermuted(attention_pytorch, *local, HEADS, layout=layout, tag=TAG, mask=square)
    wrong_mask = relative_error(wrong_mask, layout.split_joint(reference(lengths, HEADS, square), 1, rank))

    sentences = []
    with pytest.raises(Unsupported) as refusal:
        ring_attention(attention_pytorch, *local, HEADS, layout=layout, tag=TAG, mask=torch.ones(7, 7))
    sentences.append(str(refusal.value))
    by_heads = SequenceAttention(ring, ulysses, "ring", wire, ledger)
    five = [torch.randn(BATCH, 8, 5 * DIM) for _ in range(3)]
    with pytest.raises(Unsupported) as refusal:
        by_heads(attention_pytorch, *five, 5, layout=layout, tag=TAG)
    sentences.append(str(refusal.value))
    with pytest.raises(Unsupported) as refusal:
        by_heads(attention_pytorch, local[0], *[x[..., :DIM] for x in local[1:]], HEADS, layout=layout, tag=TAG)
    sentences.append(str(refusal.value))
    mixed = torch.full((3,), float(rank), dtype=torch.float16)
    there = torch.empty(3, dtype=torch.float16)
    exchange(ring, {1 - rank: mixed}, {1 - rank: there}, ledger)
    return alone, wrong_mask, wire.seen, record, sentences, there.tolist()


def test_two_ranks(tmp_path):
    for rank, (alone, wrong_mask, seen, record, sentences, there) in enumerate(launch(own_chunk_only, 2, tmp_path)):
        assert alone > 1e-2
        assert wrong_mask > 1e-2
        assert seen[:2] == [("pack", None, 3), ("unpack", 1 - rank, 3)]
        values = 2 * BATCH * 8 * HEADS * DIM
        assert record["outside"]["bytes_sent"] == values * 4
        assert record["outside"]["bytes_uncompressed"] == values * 2
        assert record["outside"]["hidden_seconds"] > 0
        assert record["outside"]["seconds"]["exposed"] > 0
        assert record["warnings"] == [
            "ring_exchange ring computes attention with torch's own kernels; reference does not apply. "
            "ring_exchange all_gather keeps it."
        ]
        assert "(7, 7)" in sentences[0] and "run on one device" in sentences[0]
        assert "ulysses_degree is 2" in sentences[1] and "5 attention heads" in sentences[1]
        assert "1 key and value heads" in sentences[2]
        assert there == [1.0 - rank] * 3
