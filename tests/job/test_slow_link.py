"""Cards whose link is too slow for tokens: auto shares what else there is, on fewer workers, or samples on one device.

There are no cards: the link that CPU workers measure is taken for one between cards.
"""

from __future__ import annotations

import pytest
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.comfy.run.outer_sample import ParallelSampling
from compact_parallel.runtime.config import CompressionConfig, ParallelConfig, PoolConfig, StrategyConfig
from compact_parallel.runtime.pool.pool import Pool
from compact_parallel.runtime.pool.registry import pools
from sampling import TOLERANCE, ksampler, model, relative_error, report

REASON = "auto does not divide tokens between these cards, as the link (gloo, "


@pytest.fixture
def sample(monkeypatch):
    """Samples with `workers` CPU workers whose link is taken for one between cards that use gloo."""
    link = Pool.link.fget
    names = set()

    def between_cards(pool):
        measured = link(pool)
        return {**measured, "cards": "gloo"} if measured is not None else None

    def run(workers, cfg, **strategy):
        names.add(f"cards-{workers}")
        chosen = ParallelConfig(
            PoolConfig(devices=f"cpu*{workers}", name=f"cards-{workers}"),
            StrategyConfig(mode="manual", **strategy) if strategy else StrategyConfig(),
            CompressionConfig(mode="off"),
        )
        patcher = model("flux").clone()
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "compact_parallel", ParallelSampling(chosen))
        return ksampler(patcher, "flux", cfg=cfg)

    monkeypatch.setattr(Pool, "link", property(between_cards))
    yield run
    for name in names:
        pools().find(name).stop()


def test_fewer_workers_share_the_conditions(sample):
    stock = ksampler(model("flux"), "flux", cfg=3.0)
    for _ in range(2):
        assert relative_error(sample(3, cfg=3.0), stock) < TOLERANCE
        found = report()
        assert (found["workers"], found["strategy"]["cfg_degree"]) == (2, 2)
        pool = pools().find("cards-3")
        assert (pool.devices, pool.starts) == (("cpu", "cpu"), 1), "the second run takes the pool of the first"
        assert [sentence for sentence in found["warnings"] if sentence.startswith(REASON)]
        assert found["fallbacks"] == []


def test_one_device_samples_where_nothing_else_is_left_and_the_workers_are_not_started_again(sample):
    stock = ksampler(model("flux"), "flux", cfg=1.0)
    for _ in range(2):
        assert relative_error(sample(2, cfg=1.0), stock) < TOLERANCE
        (reason,) = report()["fallbacks"]
        assert reason.startswith(REASON)
        assert pools().find("cards-2").starts == 1
    pools().find("cards-2").stop()
    pools().find("cards-2")._group.notice = "nccl did not start."
    sample(2, cfg=1.0)
    assert report()["fallbacks"] == [f"{reason} nccl did not start."]
    assert (pools().find("cards-2").starts, pools().find("cards-2").state) == (1, "stopped")


def test_tokens_by_hand_are_tokens(sample):
    stock = ksampler(model("flux"), "flux", cfg=1.0)
    assert relative_error(sample(2, cfg=1.0, ring_degree=2), stock) < TOLERANCE
    assert (report()["fallbacks"], report()["strategy"]["ring_degree"]) == ([], 2)
