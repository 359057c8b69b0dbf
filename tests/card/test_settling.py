"""Messages of a card, whose headers the host reads when the call has ended, on a simulated one without kernels."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from compact_parallel.runtime.compression.codecs import OFFERED
from compact_parallel.runtime.compression.header import Header, WireError
from compact_parallel.runtime.compression.kernels import ops
from compact_parallel.runtime.compression.wire import Payload, Spec
from device import DEVICE
from simulated_card import SimulatedCard
from wire_link import TAG, Link, drift, relative

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="here are real cards")


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """No kernels: they run on the interpreter, in a process of their own (compression/kernels)."""
    monkeypatch.setattr(ops, "usable", lambda codec, channels, device: False)
    with SimulatedCard() as card, torch.inference_mode():
        yield card


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("codec", OFFERED)
def test_a_card_sends_and_gets_what_a_cpu_does(card, codec, dtype):
    """Bit for bit, predicted from one base. Negative control: another codec's bytes."""
    here, there, other = (Link(codec=name, predictor="previous") for name in (codec, codec, "4bit"))
    for x in drift(4, n=24, c=32, dtype=dtype):
        on_card = card.put(x.clone())
        payloads = here.pack(x).first, there.pack(on_card).first
        assert torch.equal(payloads[0], card.take(payloads[1]))
        spec = Spec.of([x], TAG)
        outs = here.receive(Payload(payloads[0]), spec)[0], there.receive(Payload(payloads[1]), spec)[0]
        assert torch.equal(outs[0], card.take(outs[1]))
        differs = not torch.equal(outs[0], other.send(x)[0])
        there.settle()
        there.assert_equal_bases()
    assert differs or codec == "4bit"
    assert there.ledger.errors == pytest.approx(here.ledger.errors, rel=1e-3, abs=1e-6)
    assert there.ledger.bits == here.ledger.bits


@pytest.mark.parametrize("exact", [False, True])
def test_least_squares_on_a_card_is_as_near(card, exact):
    """The factor is found in float32 there, so its last bits may differ."""
    links = [Link(codec="2bit", predictor="least_squares", keep_text_exact=exact) for _ in range(2)]
    tag = TAG if not exact else type(TAG)(TAG.layer, TAG.name, TAG.slots, exact_tokens=5)
    for x in drift(8, n=24, c=32):
        here, there = links[0].send(x, tag=tag)[0], links[1].send(card.put(x.clone()), tag=tag)[0]
        errors = relative(x, here), relative(x, card.take(there))
        assert errors[1] == pytest.approx(errors[0], rel=0.05)
        assert not exact or torch.equal(x[:, :5], card.take(there)[:, :5])
        links[1].settle()
        links[1].assert_equal_bases()
    assert errors[1] < 0.2


def test_settled_late_is_settled_all_the_same(card):
    """The next message of a stream settles what is open: nobody has to say that a call has ended."""
    told, untold = Link(codec="2bit"), Link(codec="2bit")
    for x in drift(6, n=24, c=32):
        outs = [card.take(link.send(card.put(x.clone()))[0]) for link in (told, untold)]
        told.settle()
        assert torch.equal(*outs)
    assert len(untold.ledger.errors) == 5 and len(told.ledger.errors) == 6
    untold.settle()
    assert untold.ledger.errors == told.ledger.errors


@pytest.mark.parametrize("place", ["codec", "k", "checksum", "scales", "codes"])
def test_damage_is_found_when_the_call_ends(card, place):
    """The sentence names layer, tensor and sender; every stream starts anew. Two messages are read at once."""
    calls, spec = list(drift(4, n=24, c=32)), Spec(TAG, ((1, 24, 32),), torch.float32)
    offset = {"codec": 2, "k": 16, "checksum": 28, "scales": Header.SIZE + 3, "codes": -20}[place]
    for call in range(4):
        link = Link(codec="2bit")
        for x in calls[:call]:
            link.send(card.put(x.clone()))
            link.settle()
        first = link.pack(card.put(calls[call].clone())).first.clone()
        first[offset] = (int(card.take(first)[offset]) ^ 1) & 255
        if call < 2:
            with pytest.raises(WireError, match=r"damaged|same state"):
                link.receive(Payload(first), spec)
            continue
        link.receive(Payload(first), spec)
        with pytest.raises(WireError, match=r"blocks.0.attn kv, from rank 0: .*(damaged|same state)"):
            link.receiver.settle()
        assert not link.receiver._streams


def test_a_lost_message_is_found_when_the_call_ends(card):
    link, calls = Link(codec="2bit"), [card.put(x.clone()) for x in drift(5, n=24, c=32)]
    for x in calls[:3]:
        link.send(x)
    link.pack(calls[3])
    link.send(calls[4])
    with pytest.raises(WireError, match="same state"):
        link.settle()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", [0, 1, 3])
def test_what_is_not_finite_arrives_as_nan_and_is_forgotten(card, bad, when):
    link, sizes = Link(codec="2bit"), []
    for call, x in enumerate(drift(7, n=24, c=32)):
        given = card.put(x.clone())
        if call == when:
            given[0, 3, 4] = bad
        sizes.append(link.receiver.expect(0, Spec.of([given], TAG)).nbytes)
        y = card.take(link.send(given)[0])
        assert bool(y.isnan().all()) == (call == when)
        link.settle()
        link.assert_equal_bases()
    assert sizes[when + 1] == sizes[0] > sizes[when + 2] == sizes[-1]
    assert relative(x, y) < 0.3
    assert "blocks.0.attn (kv, tensor 0)" in link.ledger.first_not_finite


def test_shared_values_are_those_that_arrive(card):
    link = Link(codec="2bit")
    for call, x in enumerate(drift(4, n=24, c=32)):
        given = card.put(x.clone())
        if call == 3:
            given[0, 0, 0] = math.nan
        spec = Spec.of([given], TAG)
        payload, (shared,) = link.sender.pack_shared([given], spec)
        (arrived,) = link.receive(payload, spec)
        assert torch.equal(card.take(shared).isnan(), card.take(arrived).isnan())
        assert torch.equal(card.take(shared).nan_to_num(), card.take(arrived).nan_to_num())
        link.settle()


def test_what_waits_to_be_settled_holds_no_tensors_of_the_call(card):
    link = Link(codec="2bit", predictor="none")
    for x in drift(3, n=24, c=32):
        link.send(card.put(x.clone()))
        link.settle()
    given = card.put(x.clone())
    payload = link.pack(given)
    seen = [weakref.ref(given), weakref.ref(payload.first)]
    link.receive(payload, Spec.of([given], TAG))
    del given, payload
    gc.collect()
    assert [each() for each in seen] == [None, None]
    link.settle()
