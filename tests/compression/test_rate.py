"""Rate control: a ratio is met, a bound is kept, and bits go where the residual is."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.compression.header import WireError
from compact_parallel.runtime.compression.wire import Payload, Spec, Tag
from wire_link import Link, drift, relative

LAYERS = 6


def paths(calls, n=64, c=192):
    """Per call, the tensors of LAYERS layers: some smooth, some rough."""
    runs = [drift(calls, n=n, c=c, rough=0.02 * 3**layer, seed=layer) for layer in range(LAYERS)]
    return zip(*runs)


def run(calls, **config):
    """A link after a run of `calls` calls, and the errors by call and layer."""
    link, errors = Link(expected_calls=calls, **config), []
    for tensors in paths(calls):
        row = []
        for layer, x in enumerate(tensors):
            y = link.send(x, tag=Tag(f"blocks.{layer}", "kv", (("cond", 0),)))[0]
            row.append(relative(x, y))
        errors.append(row)
        link.assert_equal_bases()
    return link, errors


def effective_ratio(link):
    sent, uncompressed = link.ledger.totals()
    return uncompressed / sent


@pytest.mark.parametrize("warmup", [1, 2])
@pytest.mark.parametrize(("ratio", "calls"), [(2, 20), (3, 6), (4, 20), (6, 20), (6, 50), (8, 8), (10, 20), (20, 30)])
def test_the_ratio_asked_for_is_met(ratio, calls, warmup):
    link, _ = run(calls, mode="ratio", ratio=float(ratio), warmup_calls=warmup)
    assert effective_ratio(link) == pytest.approx(ratio, rel=0.1)


def test_a_fixed_codec_misses_that_ratio():
    """The negative control: bits per value alone do not give the ratio of a run."""
    link, _ = run(20, codec="2bit", warmup_calls=2)
    assert effective_ratio(link) != pytest.approx(8, rel=0.1)


def test_a_run_that_is_longer_than_expected_keeps_the_ratio():
    link = Link(expected_calls=10, mode="ratio", ratio=6.0)
    for tensors in paths(20):  # a sampler of second order asks twice per step
        for layer, x in enumerate(tensors):
            link.send(x, tag=Tag(f"blocks.{layer}", "kv", (("cond", 0),)))
    assert effective_ratio(link) == pytest.approx(6, rel=0.1)


def test_the_warm_up_gets_fewer_calls_before_it_gets_fewer_bits():
    warmups = {}
    for ratio in (4, 10, 14, 30):
        link, _ = run(16, mode="ratio", ratio=float(ratio), warmup_calls=2)
        warmups[ratio] = (link.ledger.codecs[0], link.ledger.codecs[LAYERS])
    assert warmups[4] == ("int8", "int8")
    assert warmups[14][0] == "int8" != warmups[14][1]
    assert warmups[30][0] == "4bit"


@pytest.mark.parametrize("bound", [0.3, 0.07, 0.02, 0.004])
def test_no_message_passes_the_bound(bound):
    link, errors = run(15, mode="quality", max_relative_error=bound)
    assert torch.tensor(errors).max() <= bound * (1 + 1e-5)
    assert max(link.ledger.errors) <= bound


def test_a_looser_bound_takes_fewer_bytes_and_uses_the_room():
    loose, tight = (run(15, mode="quality", max_relative_error=bound) for bound in (0.2, 0.02))
    assert loose[0].ledger.totals()[0] < 0.7 * tight[0].ledger.totals()[0]
    assert torch.tensor(loose[1]).max() > 0.05


def test_a_jump_is_caught_by_a_supplement():
    """Nothing before it lets the sender foresee the residual; without the supplement the bound would be passed."""
    link, calls = Link(mode="quality", max_relative_error=0.02), list(drift(40))
    for x in calls[:30]:
        link.send(x)
    other = next(drift(1, seed=9))
    spec = Spec.of([other], Tag("blocks.0.attn", "kv", (("cond", 0),)))
    expected = link.receiver.expect(0, spec)
    first, supplements = link.sender.pack([other], spec)
    assert len(first) == expected.nbytes
    assert len(supplements) == expected.supplements_nbytes(first) > 0
    damaged = supplements.clone()
    damaged[len(supplements) // 2] ^= 1
    with pytest.raises(WireError, match="supplement"):
        link.receive(Payload(first, damaged), spec)
    for truncated in (supplements[:-16], None):
        with pytest.raises(WireError, match="truncated"):
            link.receive(Payload(first, truncated), spec)
    assert relative(other, link.receive(Payload(first, supplements), spec)[0]) <= 0.02
    link.assert_equal_bases()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bound_below_the_precision_of_the_dtype_is_kept_by_raw_values(dtype):
    link = Link(mode="quality", max_relative_error=0.001)
    for x in drift(4, dtype=dtype):
        y = link.send(x)[0]
        assert relative(x, y) <= 0.001


def test_nothing_is_spent_on_what_does_not_change():
    link, x = Link(mode="quality", max_relative_error=0.07), next(drift(1))
    for _ in range(5):
        link.send(x)
    assert link.ledger.codecs[-2:] == ["skip", "skip"]


def test_sensitive_tensors_get_eight_bits_and_are_read_alike_everywhere():
    link, tag = Link(codec="1bit"), Tag("final", "tokens", (("cond", 0),), sensitive=True)
    for x in drift(4):
        spec = Spec.of([x], tag)
        payload, shared = link.sender.pack_shared([x], spec)
        y = link.receive(payload, spec)[0]
        assert torch.equal(shared[0], y)
        assert not torch.equal(x, y)
        assert relative(x, y) < 0.01
    assert link.ledger.codecs == ["int8"] * 4
