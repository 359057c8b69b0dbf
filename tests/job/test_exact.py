"""With compression off, a parallel run gives what stock ComfyUI gives: every family, arrangement and way to sample."""

from __future__ import annotations

import sys

import cloudpickle
import pytest
from comfy.patcher_extension import WrappersMP
from sampling import TOLERANCE, WORKFLOWS, expected, ksampler, model, parallel, pool, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

FAMILIES = ("flux", "sd3", "wan")
ARRANGEMENTS = {
    "cfg 2": (2, {"cfg_degree": 2}),
    "all_gather 2": (2, {"ring_degree": 2}),
    "ring 2": (2, {"ring_degree": 2, "ring_exchange": "ring"}),
    "ulysses 2": (2, {"ulysses_degree": 2}),
    "all_gather 3": (3, {"ring_degree": 3}),
    "ring 3": (3, {"ring_degree": 3, "ring_exchange": "ring"}),
    "auto 3": (3, {}),
    "cfg 2 x all_gather 2": (4, {"cfg_degree": 2, "ring_degree": 2}),
    "ulysses 2 x ring 2": (4, {"ulysses_degree": 2, "ring_degree": 2, "ring_exchange": "ring"}),
}
MANY_HEADS = {
    "ulysses 3": (3, {"ulysses_degree": 3}),
    "ulysses 4": (4, {"ulysses_degree": 4}),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_every_arrangement_gives_the_stock_result(family, arrangement):
    world, strategy = ARRANGEMENTS[arrangement]
    samples = ksampler(parallel(model(family), world, **strategy), family)
    assert relative_error(samples, expected(family, "euler")) < TOLERANCE
    assert report()["workers"] == world
    assert report()["bytes_sent"] > 0


@pytest.mark.parametrize("arrangement", MANY_HEADS)
def test_more_ulysses_ranks_where_the_heads_allow_it(arrangement):
    world, strategy = MANY_HEADS[arrangement]
    samples = ksampler(parallel(model("wan"), world, **strategy), "wan")
    assert relative_error(samples, expected("wan", "euler")) < TOLERANCE


@pytest.mark.pairwise("family", "workflow", "arrangement")
@pytest.mark.parametrize("arrangement", ("cfg 2", "all_gather 2", "all_gather 3"))
@pytest.mark.parametrize("workflow", [name for name in WORKFLOWS if name not in ("euler", "basic_guider", "cfg_1")])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_to_sample_gives_the_stock_result(family, workflow, arrangement):
    world, strategy = ARRANGEMENTS[arrangement]
    samples = WORKFLOWS[workflow](parallel(model(family), world, **strategy), family)
    assert relative_error(samples, expected(family, workflow)) < TOLERANCE


@pytest.mark.parametrize("workflow", ("basic_guider", "cfg_1"))
@pytest.mark.parametrize("world", (2, 3))
def test_one_condition_needs_no_cfg(workflow, world):
    samples = WORKFLOWS[workflow](parallel(model("flux"), world), "flux")
    assert relative_error(samples, expected("flux", workflow)) < TOLERANCE


def test_the_parent_loads_no_model():
    import comfy.model_management

    comfy.model_management.unload_all_models()
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    loaded = [type(entry.model.model).__name__ for entry in comfy.model_management.current_loaded_models]
    assert "Flux" not in loaded
    ksampler(model("flux"), "flux")
    loaded = [type(entry.model.model).__name__ for entry in comfy.model_management.current_loaded_models]
    assert "Flux" in loaded  # the check sees a loaded model


def _without_gather(executor, *args, **kwargs):
    """Runs in a worker: attention sees the own keys and values in place of everybody's."""
    from unittest import mock

    def own_only(attention):
        yield
        return [x.repeat_interleave(attention.axis.size, dim=1) for x in attention.kv_BLHD]

    with mock.patch("compact_parallel.runtime.attention.exchanges.all_gather.gather_kv", own_only):
        return executor(*args, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_gather_the_result_is_wrong(family):
    patcher = parallel(model(family), 2, ring_degree=2)
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, _without_gather)
    samples = ksampler(patcher, family)
    assert relative_error(samples, expected(family, "euler")) > 100 * TOLERANCE


def test_runs_share_the_workers():
    pids = {worker["pid"] for worker in pool(2).status()["workers"]}
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    assert {worker["pid"] for worker in pool(2).status()["workers"]} == pids
