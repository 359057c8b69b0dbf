"""xDiT's versions of tiny pipelines on real ranks against the pipelines alone. One launch runs all cases of a world."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import cache

import pytest
import torch
import torch.distributed as dist
from compact_parallel.runtime.config import XditConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.pipelines.xdit import engine, shims, supported
from compact_parallel.runtime.pipelines.xdit.loading import load
from compact_parallel.runtime.pool.errors import AgreedError, Cancelled
from distributed import launch
from tiny_pipelines import saved
from xdit_runs import RAW, STEPS, TWO_BIT, Runs, difference

pytest.importorskip("xfuser")

PLAIN = XditConfig()
SYNCHRONOUS = XditConfig(pipefusion_degree=2, warmup_steps=STEPS)
ASYNCHRONOUS = XditConfig(pipefusion_degree=2)
ULYSSES, RING, CFG, WHOLE = Degrees(ulysses=2), Degrees(ring=2), Degrees(cfg=2), Degrees()

EXACT = {
    "flux, ulysses": ("flux", PLAIN, ULYSSES),
    "flux, ring": ("flux", PLAIN, RING),
    "flux, synchronous PipeFusion": ("flux", SYNCHRONOUS, WHOLE),
    "flux, ulysses over our exchange": ("flux", PLAIN, ULYSSES, RAW),
    "flux, ring over our all_gather": ("flux", PLAIN, RING, RAW),
    "flux, ring over our ring": ("flux", PLAIN, Degrees(ring=2, ring_exchange="ring"), RAW),
    "pixart, ulysses": ("pixart", PLAIN, ULYSSES),
    "pixart, ring": ("pixart", PLAIN, RING),
    "pixart, cfg": ("pixart", PLAIN, CFG),
    "pixart, synchronous PipeFusion": ("pixart", SYNCHRONOUS, WHOLE),
    "pixart, ulysses over our exchange": ("pixart", PLAIN, ULYSSES, RAW),
    "sd3, ulysses": ("sd3", PLAIN, ULYSSES),
    "sd3, cfg": ("sd3", PLAIN, CFG),
    "cogvideox, ring": ("cogvideox", PLAIN, RING),
    "cogvideox_dpm, ulysses": ("cogvideox_dpm", PLAIN, ULYSSES),
    "latte, ring": ("latte", PLAIN, RING),
}
ON_FOUR = {
    "flux, ulysses and ring over our exchange": ("flux", PLAIN, Degrees(ulysses=2, ring=2), RAW),
    "flux, PipeFusion and ring over our all_gather": ("flux", SYNCHRONOUS, RING, RAW),
    "flux, PipeFusion and ring over our ring": ("flux", SYNCHRONOUS, Degrees(ring=2, ring_exchange="ring"), RAW),
    "pixart, PipeFusion and ulysses over our exchange": ("pixart", SYNCHRONOUS, ULYSSES, RAW),
    "pixart, cfg and PipeFusion": ("pixart", SYNCHRONOUS, CFG),
    "cogvideox, cfg and ring over our exchange": ("cogvideox", PLAIN, Degrees(cfg=2, ring=2), RAW),
}
COMPRESSED = {
    "flux, ulysses": ("flux", PLAIN, ULYSSES),
    "flux, ring": ("flux", PLAIN, Degrees(ring=2, ring_exchange="ring")),
    "pixart, ulysses": ("pixart", PLAIN, ULYSSES),
}
PIPELINES = ("flux", "pixart", "sd3", "cogvideox", "cogvideox_dpm", "latte")
ASYNCHRONOUS_RUNS = 20
TOLERANCE = 1e-5


class Stop(Exception):
    """What a rank's on_step raises."""


def _stopped(runs, error, where, stopper, *case):
    """What a run raises here if `error` is raised by rank `stopper` after step `where`, and how often it evaluated."""
    seen = []

    def on_step(step):
        seen.append(step)
        if runs.rank == stopper and step == where:
            raise error

    with pytest.raises((AgreedError, Stop)) as caught, runs.set_up(*case, on_step=on_step) as (once, ledger):
        once()
    evaluations = sum(call["evaluations"] for call in ledger.to_json()["calls"])
    return type(caught.value).__name__, evaluations, seen


@contextmanager
def _without(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _nothing(*_):
    yield


def _no_sum(query, key, value, *_, **__):
    out, lse = shims.attention_with_lse(query, key, value, query.shape[-1] ** -0.5)
    return out, torch.zeros_like(lse)


def _state():
    """What a run must leave as it was: torch's process groups, xfuser's parts, the environment."""
    usp, groups = load("xfuser.model_executor.layers.usp"), load("xfuser.core.distributed.parallel_state")
    parts = {f"{module.__name__}.{name}": value for module in (usp, groups) for name, value in vars(module).items()}
    parts.pop("xfuser.core.distributed.parallel_state.__warningregistry__", None)
    caches = load("xfuser.core.cache_manager.cache_manager").get_cache_manager().cache
    return parts, len(caches), len(dist.distributed_c10d._world.pg_map), dict(os.environ), list(sys.argv)


def on_two(rank, world, folder):
    environment = dict(os.environ)
    load("xfuser")
    found = {"environment": environment == dict(os.environ)}
    runs = Runs(rank, world, folder)
    before = _state()
    found["exact"] = {name: runs.error(*case) for name, case in EXACT.items()}
    found["compressed"] = {}
    for name, (pipeline, settings, degrees) in COMPRESSED.items():
        _, raw = runs.divided(pipeline, settings, degrees, RAW)
        output, ledger = runs.divided(pipeline, settings, degrees, TWO_BIT)
        error = None if output is None else difference(output, runs.reference(pipeline))
        calls = ledger.to_json()["calls"]
        codecs = [set(call["codecs"]) for call in calls]
        errors = [call["max_error"] for call in calls]
        found["compressed"][name] = raw.totals()[0], ledger.totals()[0], error, codecs, errors
    found["restored"] = _state() == before
    found["asynchronous"] = {}
    for name in ("flux", "pixart"):
        with runs.set_up(name, ASYNCHRONOUS, WHOLE) as (once, _):
            outputs = [once() for _ in range(ASYNCHRONOUS_RUNS // 2)]
        found["asynchronous"][name] = None
        if rank == 0:
            same = all(torch.equal(output, outputs[0]) for output in outputs)
            found["asynchronous"][name] = same, difference(outputs[0], runs.reference(name))
    found["stopped"] = {
        "ulysses": _stopped(runs, Stop(), 1, 0, "pixart", PLAIN, ULYSSES),
        "ring over our exchange": _stopped(runs, Cancelled("x"), 1, 0, "flux", PLAIN, RING, TWO_BIT),
        "synchronous": _stopped(runs, Stop(), 1, 0, "pixart", SYNCHRONOUS, WHOLE),
        "synchronous, by the last": _stopped(runs, Cancelled("x"), 0, 1, "flux", SYNCHRONOUS, WHOLE),
        "asynchronous": _stopped(runs, Cancelled("x"), 2, 0, "flux", ASYNCHRONOUS, WHOLE),
        "asynchronous, by the last": _stopped(runs, Stop(), 2, 1, "pixart", ASYNCHRONOUS, WHOLE),
        "in the warm-up": _stopped(runs, Stop(), 0, 0, "pixart", ASYNCHRONOUS, WHOLE),
        "at the end": _stopped(runs, Stop(), STEPS - 1, 1, "pixart", ASYNCHRONOUS, WHOLE),
    }
    steps = []
    runs.divided("pixart", ASYNCHRONOUS, WHOLE, on_step=steps.append)
    found["steps"] = steps
    picture, _ = runs.divided("pixart", SYNCHRONOUS, WHOLE, output_type="np")
    found["picture"] = None if picture is None else difference(picture, runs.alone("pixart", output_type="np"))
    found["seed"] = difference(runs.alone("flux", generator=torch.Generator().manual_seed(8)), runs.reference("flux"))
    found["wrong"] = {}
    with _without(shims, "_attention", _no_sum):
        found["wrong"]["no log-sum-exp"] = runs.error("pixart", PLAIN, RING)
    with _without(engine, "noise_of_the_whole", _nothing):
        found["wrong"]["noise of each part"] = runs.error("cogvideox_dpm", PLAIN, ULYSSES)
    with _without(engine, "local_temporal_attention", _nothing):
        found["wrong"]["temporal blocks exchange"] = runs.error("latte", PLAIN, RING)
    text = {"max_sequence_length": 15}
    alone = runs.alone("flux", **text)
    with _without(supported, "check", _nothing):
        shared, _ = runs.divided("flux", PLAIN, ULYSSES, **text)
    found["wrong"]["text that is not shared"] = None if shared is None else difference(shared, alone)
    found["alone again"] = {name: torch.equal(runs.alone(name), runs.reference(name)) for name in PIPELINES}
    return found


def on_four(rank, world, folder):
    runs = Runs(rank, world, folder)
    return {name: runs.error(*case) for name, case in ON_FOUR.items()}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xdit")
    for name in PIPELINES:
        saved(name, folder)  # not on the ranks: transformers saves nothing on rank 1
    return cache(lambda job, world: launch(job, world, folder, folder))


@pytest.fixture
def ranks(launched):
    return launched(on_two, 2)


@pytest.mark.parametrize("name", EXACT)
def test_equal_to_the_pipeline_alone(ranks, name):
    assert ranks[0]["exact"][name] < TOLERANCE
    assert ranks[1]["exact"][name] is None


@pytest.mark.parametrize("name", ON_FOUR)
def test_equal_on_four_ranks(launched, name):
    assert launched(on_four, 4)[0][name] < TOLERANCE


def test_a_picture_comes_from_the_last_rank_to_the_first(ranks):
    assert ranks[0]["picture"] < TOLERANCE
    assert ranks[1]["picture"] is None


def test_another_seed_gives_something_else(ranks):
    assert ranks[0]["seed"] > 0.1


@pytest.mark.parametrize(
    "name", ["no log-sum-exp", "noise of each part", "temporal blocks exchange", "text that is not shared"]
)
def test_without_what_is_mended_or_refused_it_is_wrong(ranks, name):
    assert ranks[0]["wrong"][name] > 100 * TOLERANCE


@pytest.mark.parametrize("name", COMPRESSED)
def test_two_bits_save_bytes_and_cost_little(ranks, name):
    for each in ranks:
        raw, sent, _, codecs, errors = each["compressed"][name]
        assert sent < 0.25 * raw
        assert len(codecs) == STEPS
        assert codecs[-1] == {"2bit"}
        assert 0 < max(errors) < 0.5
    assert TOLERANCE < ranks[0]["compressed"][name][2] < 0.05


@pytest.mark.parametrize("name", ["flux", "pixart"])
def test_asynchronous_pipefusion_ends_every_time_with_the_same_result(ranks, name):
    same, error = ranks[0]["asynchronous"][name]
    assert same
    assert 10 * TOLERANCE < error < 0.05


@pytest.mark.parametrize(
    ("name", "classes", "most"),
    [
        ("ulysses", ("Stop", "AgreedError"), 2),
        ("ring over our exchange", ("Cancelled", "Cancelled"), 2),
        ("synchronous", ("Stop", "AgreedError"), 3),
        ("synchronous, by the last", ("Cancelled", "Cancelled"), 2),
        ("asynchronous", ("Cancelled", "Cancelled"), 1 + 3 * 2),
        ("asynchronous, by the last", ("AgreedError", "Stop"), 1 + 3 * 2),
        ("in the warm-up", ("Stop", "AgreedError"), 1 + 1 * 2),
        ("at the end", ("AgreedError", "Stop"), 1 + 5 * 2),
    ],
)
def test_if_one_rank_stops_all_leave_and_evaluate_no_more(ranks, name, classes, most):
    assert tuple(each["stopped"][name][0] for each in ranks) == classes
    assert [each["stopped"][name][1] for each in ranks] == [most, most]


def test_every_rank_sees_every_step(ranks):
    assert [each["steps"] for each in ranks] == [list(range(STEPS))] * 2


def test_nothing_is_left_behind(ranks):
    for each in ranks:
        assert each["environment"]
        assert each["restored"]
        assert all(each["alone again"].values())
