"""How many head chunks a measured link gets: many where it is slow, one where it is fast. No worker is needed."""

from __future__ import annotations

import pytest
from compact_parallel.runtime.attention.sequence_attention import MOST_HEAD_CHUNKS
from compact_parallel.runtime.attention.ulysses import head_chunk_count
from compact_parallel.runtime.config import CompressionConfig, ParallelConfig, StrategyConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.parallel.step.samplers import LINE, Kind
from compact_parallel.runtime.planner.facts import Asked, JobFacts, ModelFacts, SamplerFacts
from compact_parallel.runtime.planner.head_chunks import CODED_SECONDS, EXACT_SECONDS, WORTH, least_nbytes
from compact_parallel.runtime.planner.link import Link
from compact_parallel.runtime.planner.run_plan import RunPlan, plan_run

# K and V of one layer that a rank of two sends, uncompressed in 16 bits: FLUX at 1024 x 1024 (4608 tokens of 3072
# channels), Wan 14B at 720p (75600 of 5120), SD3 at 512 x 512 (1178 of 1536).
FLUX, WAN, SD3 = (2 * tokens // 2 * channels * 2 for tokens, channels in ((4608, 3072), (75600, 5120), (1178, 1536)))
NETWORK, GIGABIT, PCIE, NVLINK = (
    Link(*speed, {}) for speed in ((12.5e6, 5e-4), (125e6, 2e-4), (8e9, 3e-5), (2e11, 2e-5))
)


def count(nbytes, link, coded=False, heads=24):
    return head_chunk_count(nbytes, least_nbytes(link, coded=coded), min(MOST_HEAD_CHUNKS, heads))


@pytest.mark.parametrize(
    ("link", "flux", "wan", "sd3"),
    [(NETWORK, 4, 4, 4), (GIGABIT, 4, 4, 4), (PCIE, 1, 4, 1), (NVLINK, 1, 1, 1)],
    ids=["100 Mbit/s", "1 Gbit/s", "8 GB/s PCIe", "200 GB/s NVLink"],
)
def test_a_fast_link_gets_one_and_a_slow_one_all(link, flux, wan, sd3):
    assert (count(FLUX, link), count(WAN, link), count(SD3, link)) == (flux, wan, sd3)


def test_what_is_coded_is_smaller_and_a_chunk_of_it_costs_more():
    assert count(FLUX // 2, NETWORK, coded=True) == 4
    assert count(SD3 // 2, NETWORK, coded=True) == 4
    assert count(SD3 // 2, GIGABIT) == 4
    assert count(SD3 // 2, GIGABIT, coded=True) == 1
    assert least_nbytes(GIGABIT, coded=True) == round((WORTH * CODED_SECONDS + 2e-4) * 125e6)
    assert least_nbytes(GIGABIT, coded=False) == round((WORTH * EXACT_SECONDS + 2e-4) * 125e6)


def test_more_bytes_never_get_fewer_and_a_faster_link_never_more():
    speeds = [10.0**power for power in range(5, 13)]
    for nbytes in (1, 1 << 10, 1 << 20, 1 << 30):
        counts = [count(nbytes, Link(speed, 1e-4, {})) for speed in speeds]
        assert counts == sorted(counts, reverse=True)
        assert all(1 <= each <= MOST_HEAD_CHUNKS for each in counts)
        assert all(count(4 * nbytes, Link(speed, 1e-4, {})) >= each for speed, each in zip(speeds, counts))
    assert count(1 << 40, NETWORK, heads=2) == 2
    assert count(1 << 30, Link(1e9, 1.0, {})) == 1, "no chunk is shorter than the latency"


@pytest.mark.parametrize(("mode", "coded"), [("off", False), ("ratio", True)])
def test_the_plan_brings_it_to_the_workers(mode, coded):
    config = ParallelConfig(
        strategy=StrategyConfig(mode="manual", ring_degree=2), compression=CompressionConfig(mode=mode)
    )
    facts = JobFacts(ModelFacts("Flux", heads=24), 1, Asked(1, 1), SamplerFacts("euler", Kind(LINE), calls=20))
    plan = plan_run(config, facts, 2, GIGABIT)
    again = RunPlan.from_json(plan.to_json())
    for degrees in (plan.degrees, again.degrees, again.alone):
        assert degrees.head_chunk_nbytes == least_nbytes(GIGABIT, coded=coded)
    assert plan_run(config, facts, 2).degrees.head_chunk_nbytes == Degrees().head_chunk_nbytes
