"""What a worker needs besides the weights, from facts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.parallel.step.samplers import LINE, Kind
from compact_parallel.runtime.planner.facts import Asked, JobFacts, ModelFacts, SamplerFacts
from compact_parallel.runtime.planner.memory import MemoryNeed, communication_bytes, memory_need

EXCHANGED = 57 * 2 * 4608 * 3072 * 2
"""Keys and values of FLUX at 1024 x 1024."""
FLUX = ModelFacts("Flux", exchanged_bytes=EXCHANGED)
JOB = JobFacts(FLUX, batch=1, asked=Asked(1, 1), sampler=SamplerFacts("euler", Kind(LINE)))
GUIDED = replace(JOB, asked=Asked(2, 2))
SPLIT = Degrees(ring=2)
OFF, TWO_BITS = CompressionConfig(mode="off"), CompressionConfig(mode="codec", codec="2bit", base_memory_gb=64)


@pytest.mark.parametrize(
    ("degrees", "batch", "share", "share_of_one"),
    [
        (Degrees(), 1, 1, 1),
        (Degrees(cfg=2), 1, 0.5, 1),
        (Degrees(ring=2), 1, 0.55, 0.55),
        (Degrees(ring=2, ulysses=2), 1, 0.325, 0.325),
        (Degrees(data=2), 3, 2 / 3, 2 / 3),
        (Degrees(data=2), 1, 1, 1),
        (Degrees(data=2, cfg=2, ring=2), 4, 0.55 / 4, 0.55 / 2),
    ],
)
def test_the_share_of_a_call(degrees, batch, share, share_of_one):
    need = memory_need(replace(GUIDED, batch=batch), (degrees,), OFF)
    assert (need.share, need.share_of_one) == pytest.approx((share, share_of_one))
    assert need.reserved == 0


def test_code_that_sees_the_batch_gets_all_of_it():
    facts = replace(GUIDED, batch=2, sees_batch=True)
    assert memory_need(facts, (Degrees(data=2),), OFF) == MemoryNeed()


def test_bases_are_reserved_as_many_as_the_predictor_keeps_and_up_to_the_limit():
    def reserved(facts=JOB, degrees=SPLIT, **settings):
        return memory_need(facts, (degrees,), replace(TWO_BITS, **settings)).reserved

    assert reserved() == 2 * EXCHANGED
    assert reserved(predictor="previous") == EXCHANGED
    assert reserved(predictor="none") == 0
    assert reserved(GUIDED) == 4 * EXCHANGED
    assert reserved(GUIDED, Degrees(cfg=2, ring=2)) == 2 * EXCHANGED
    assert reserved(base_memory_gb=1.5) == 1.5 * 2**30
    assert reserved(degrees=Degrees(cfg=2)) == 0  # nothing is compressed
    unknown = replace(JOB, model=ModelFacts("UNet"))
    assert reserved(unknown) == 64 * 2**30 and reserved(unknown, predictor="none") == 0


def test_displaced_attention_holds_the_keys_and_values_of_a_call_and_those_under_way():
    displaced = Degrees(ring=2, ring_exchange="displaced")
    assert memory_need(JOB, (displaced,), OFF).reserved == 1.5 * EXCHANGED
    assert memory_need(JOB, (displaced,), TWO_BITS).reserved == 3.5 * EXCHANGED
    assert memory_need(JOB, (Degrees(ring=2),), OFF).reserved == 0


def test_with_step_reuse_both_ways_to_share_a_call_count():
    rounds, alone = Degrees(step=2), Degrees(ring=2)
    assert memory_need(JOB, (rounds, alone), TWO_BITS) == MemoryNeed(1, 1, 2 * EXCHANGED)


def test_nccl_takes_memory_of_the_cards():
    assert communication_bytes("nccl", 2) > 0 == communication_bytes("gloo", 2) == communication_bytes("nccl", 1)
