"""The wire on one machine: a sender and a receiver that only share bytes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from compact_parallel.runtime.compression.codecs import OFFERED
from compact_parallel.runtime.compression.codecs.int8 import Int8
from compact_parallel.runtime.compression.header import Header, WireError
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import Payload, RawWire, Spec, Tag
from compact_parallel.runtime.config import PREDICTORS, CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_link import TAG, Link, drift, relative

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def mean_error(calls=20, rough=0.0, **config):
    link = Link(**config)
    errors = [relative(x, link.send(x)[0]) for x in drift(calls, rough=rough)]
    return sum(errors) / calls


def test_off_is_raw_and_raw_is_exact():
    wire = make_wire(CompressionConfig(mode="off"), Ledger(), 20)
    assert isinstance(wire, RawWire)
    for dtype in FLOATS:
        k, v = torch.randn(2, 5, 7).to(dtype), torch.randn(2, 3, 4).to(dtype)
        k[0, 1, 2], v[1, 0, 0] = math.nan, -0.0
        spec = Spec(TAG, ((2, 5, 7), (2, 3, 4)), dtype)
        payload = wire.pack([k.mT.contiguous().mT, v], spec)
        assert len(payload.first) == wire.expect(0, spec).nbytes == wire.first_nbytes(spec)
        out = [torch.empty(shape, dtype=dtype) for shape in spec.shapes]
        wire.expect(0, spec).unpack(payload, out)
        for x, y in zip((k, v), out):
            assert torch.equal(x.view(torch.uint8), y.view(torch.uint8))
        with pytest.raises(WireError, match="truncated"):
            wire.expect(0, spec).unpack(Payload(payload.first[:-1]), out)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    codec=st.sampled_from(OFFERED),
    predictor=st.sampled_from(PREDICTORS),
    dtype=st.sampled_from(FLOATS),
    warmup=st.integers(1, 3),
    text=st.integers(0, 9),
    n=st.integers(0, 20),
    c=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_sizes_are_known_and_bases_are_equal(codec, predictor, dtype, warmup, text, n, c, seed):
    """Two tensors, one or two slots in any order, calls that leave a layer out: both ends always agree."""
    link = Link(codec=codec, predictor=predictor, warmup_calls=warmup, keep_text_exact=True)
    generator = torch.Generator().manual_seed(seed)
    for call in range(6):
        for layer in ("blocks.0", "blocks.1"):
            if layer == "blocks.1" and call in (2, 3):
                continue
            slots = [(("a", 0), ("b", 0)), (("b", 0), ("a", 0)), (("a", 0),)][call % 3]
            tag = Tag(layer, "kv", slots, exact_tokens=text)
            k = torch.randn(len(slots), n, c, generator=generator).to(dtype)
            v = torch.randn(len(slots), n, c + 1, generator=generator).to(dtype)
            for x, y in zip((k, v), link.send(k, v, tag=tag)):
                assert torch.equal(x[:, :text], y[:, :text])
            link.assert_equal_bases()


@pytest.mark.parametrize("rough", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("codec", OFFERED)
def test_closed_loop_beats_open_loop_and_no_prediction(codec, rough):
    closed = mean_error(codec=codec, rough=rough, predictor="previous")
    opened = mean_error(codec=codec, rough=rough, predictor="previous", error_feedback=False)
    fitted = mean_error(codec=codec, rough=rough, predictor="least_squares")
    direct = mean_error(codec=codec, rough=rough, predictor="none")
    assert closed < 0.8 * opened
    assert closed < 0.65 * direct
    coarse = codec in ("low_rank", "low_rank_4bit", "top_k")  # their own error hides the trend
    assert fitted < closed * (1.05 if rough else 0.8 if coarse else 0.5)


def test_error_falls_with_bits_along_a_run():
    errors = [mean_error(codec=codec, rough=0.05) for codec in ("1bit", "2bit", "4bit", "int8")]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.04


def test_the_second_warm_up_call_is_int8_too():
    link = Link(codec="2bit", warmup_calls=2)
    for x in drift(4):
        link.send(x)
    assert [round(bits) for bits in link.ledger.bits] == [9, 9, 2, 2]


def test_the_ledger_hears_the_true_error_and_bits():
    link = Link(codec="4bit")
    for x in drift(3):
        y = link.send(x)[0]
        assert link.ledger.errors[-1] == pytest.approx(relative(x, y), rel=1e-3)
    assert link.ledger.bits[-1] == pytest.approx(4.0, abs=0.5)
    assert link.ledger.to_json()["outside"]["seconds"]["encode"] > 0


def test_one_slot_does_not_touch_another():
    together, alone = Link(codec="2bit"), Link(codec="2bit")
    for a, b in zip(drift(5, seed=1), drift(5, seed=2)):
        pair = Tag(TAG.layer, TAG.name, (("cond", 0), ("uncond", 0)))
        both = together.send(torch.cat([a, b]), tag=pair)[0]
        assert torch.equal(both[:1], alone.send(a)[0])


def test_state_is_not_an_alias_of_what_callers_hold():
    clean, rude = Link(codec="2bit"), Link(codec="2bit")
    for x in drift(4):
        mine = x.clone()
        y = rude.send(mine)[0]
        assert torch.equal(y, clean.send(x)[0])
        mine.zero_()
        y.fill_(7.0)
    rude.assert_equal_bases()


def test_strided_input_and_shifted_payload():
    link, plain = Link(codec="2bit"), Link(codec="2bit")
    for x in drift(3):
        strided = x.mT.contiguous().mT
        payload = link.pack(strided)
        shifted = torch.cat([payload.first.new_zeros(5), payload.first])[5:]
        y = link.receive(Payload(shifted), Spec.of([x], TAG))[0]
        assert torch.equal(y, plain.send(x)[0])


@pytest.mark.parametrize("predictor", ["least_squares", "previous", "none"])
@pytest.mark.parametrize("codec", OFFERED)
def test_values_that_break_careless_arithmetic(codec, predictor):
    link, x = Link(codec=codec, predictor=predictor), next(drift(1))
    for odd in (torch.zeros_like(x), torch.full_like(x, 2.0), x * 1e30, x * 1e-40, x * 1e34, torch.zeros_like(x)):
        for _ in range(2):
            assert link.send(odd)[0].isfinite().all()
    errors = [relative(x, link.send(x)[0]) for _ in range(4)]
    assert errors[-1] < 0.75
    if predictor != "none":
        assert errors[-1] < 0.5 * errors[0]
    link.assert_equal_bases()


def test_half_precision_does_not_overflow_to_infinity():
    link = Link(codec="1bit")
    for x in drift(4, dtype=torch.float16):
        assert link.send((x * 1e4).clamp(-65504, 65504))[0].isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_arrives_as_nan_and_is_forgotten(bad):
    link, calls = Link(codec="2bit"), list(drift(6))
    spoiled = calls[2].clone()
    spoiled[0, 3, 4] = bad
    sizes = []
    for x in (*calls[:2], spoiled, *calls[3:]):
        sizes.append(link.receiver.expect(0, Spec.of([x], TAG)).nbytes)
        y = link.send(x)[0]
        assert bool(y.isnan().all()) == (x is spoiled)
        link.assert_equal_bases()
    assert sizes[2] == sizes[1]
    assert sizes[3] == sizes[0] > sizes[4] == sizes[1]
    assert relative(x, y) < 0.2
    assert not math.isfinite(link.ledger.errors[2])


def test_nan_in_exact_tokens_stays_there():
    link = Link(codec="2bit", keep_text_exact=True)
    x = next(drift(1))
    x[0, 0, 0] = math.nan
    y = link.send(x, tag=dataclasses.replace(TAG, exact_tokens=2))[0]
    assert torch.equal(y.isnan(), x.isnan())


def test_a_new_shape_starts_with_a_warm_up_and_the_old_one_goes_on():
    link = Link(codec="2bit")
    for n in (96, 96, 48, 48, 96):
        link.send(next(drift(1, n=n)))
        link.assert_equal_bases()
    assert [round(bits) for bits in link.ledger.bits] == [9, 2, 9, 2, 2]


def test_an_unrelated_tensor_does_not_suffer_from_its_base():
    link, (x, _) = Link(codec="2bit"), drift(2)
    for _ in range(3):
        link.send(1000 * x)
    fresh = Link(codec="2bit", predictor="none")
    fresh.send(x)
    other = next(drift(1, seed=9))
    assert relative(other, link.send(other)[0]) == pytest.approx(relative(other, fresh.send(other)[0]), rel=1e-6)
    link.assert_equal_bases()


def test_slots_must_fit_the_batch():
    link, x = Link(), torch.randn(2, 4, 4)
    with pytest.raises(ValueError, match="needs a slot"):
        link.pack(x)
    with pytest.raises(ValueError, match="needs a slot"):
        link.pack(x, tag=Tag("l", "kv", (("a", 0), ("a", 0))))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), call=st.integers(0, 3))
def test_damage_is_seen_and_leaves_no_trace(position, flip, call):
    link, calls = Link(codec="2bit"), list(drift(5, n=12, c=24))
    for x in calls[:call]:
        link.send(x)
    first, _ = link.pack(calls[call])
    spec = Spec.of([calls[call]], TAG)
    for broken in (first[:-1], first[: len(first) // 2], torch.cat([first, first.new_zeros(1)])):
        with pytest.raises(WireError, match="truncated"):
            link.receive(Payload(broken), spec)
    damaged = first.clone()
    damaged[int(position * len(first))] ^= flip
    with pytest.raises(WireError, match=r"damaged|same state"):
        link.receive(Payload(damaged), spec)
    link.receive(Payload(first), spec)
    link.assert_equal_bases()
    link.send(calls[4])


def test_a_lost_message_is_noticed():
    link = Link(codec="2bit")
    calls = list(drift(5))
    for x in calls[:3]:
        link.send(x)
    link.pack(calls[3])
    with pytest.raises(WireError, match="same state"):
        link.send(calls[4])


def test_a_changed_base_is_noticed_by_the_comparison():
    """The negative control of assert_equal_bases: one unit in the last place of one value."""
    link = Link(codec="2bit")
    for x in drift(3):
        link.send(x)
    stream = next(iter(link.receiver._streams.values()))
    value = stream.bases[0].data.view(-1)[5:6]
    value.copy_(torch.nextafter(value, value + 1))
    with pytest.raises(AssertionError):
        link.assert_equal_bases()


def test_header_survives_its_bytes():
    header = Header(3, 2, 1, 2, True, 255, 4, True, -0.5, 1 << 20, 77, (1 << 32) - 1)
    data = header.to_bytes()
    assert len(data) == Header.SIZE
    assert Header.from_bytes(data) == header
    with pytest.raises(WireError, match="damaged"):
        Header.from_bytes(b"\0" + data[1:])


@pytest.mark.parametrize(("copies", "orders", "small"), [(8.0, 2, False), (1.5, 2, True), (0.4, 0, True)])
def test_memory_budget_chooses_how_bases_are_kept(copies, orders, small):
    """One stream, and a peer's that is to come as long as none has: int8 takes 0.27 of a float32 tensor."""
    x = next(drift(1))
    link = Link(codec="2bit", base_memory_gb=copies * x.nbytes / 2**30)
    for y in drift(4):
        result = link.send(y)[0]
    own, other = link.bases()
    bases = [stream.bases for stream in (*own.values(), *other.values())]
    assert {(len(some), all(base.small for base in some)) for some in bases} == {(orders, small)}
    one = Int8().nbytes(*x.shape[1:]) if small else x.nbytes
    assert link.ledger.held[-1] == orders * one
    assert len(set(link.ledger.sentences)) == (orders == 0)
    if orders == 0:
        assert relative(y, result) < 0.01
        assert link.ledger.codecs[-1] == "int8"


@pytest.mark.parametrize(
    ("copies", "ways"),
    [(45, {(2, False)}), (25, {(2, True)}), (8, {(1, True)}), (3, {(1, True), (0, False)})],
)
def test_memory_is_shared_out_evenly_over_many_streams(copies, ways):
    """Twenty float32 tensors, of which int8 takes 0.27 each."""
    x = next(drift(1))
    link = Link(codec="2bit", base_memory_gb=copies * x.nbytes / 2**30)
    for i, y in enumerate(drift(4)):
        for layer in range(20):
            link.send(y + i, tag=Tag(f"blocks.{layer}", "kv", (("cond", 0),)))
    own = link.bases()[0].values()
    assert {(len(stream.bases), any(base.small for base in stream.bases)) for stream in own} == ways
    assert max(link.ledger.held) <= copies * x.nbytes
    assert len(set(link.ledger.sentences)) == ((0, False) in ways)
    link.assert_equal_bases()
