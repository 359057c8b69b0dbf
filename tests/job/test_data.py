"""Data parallelism: the workers share the entries of a batch, and the result is stock ComfyUI's."""

from __future__ import annotations

import sys

import cloudpickle
import comfy.samplers
import comfy_extras.nodes_easycache
import comfy_models
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.comfy.wrappers.batch import SharedBatch
from compact_parallel.runtime.config import CompressionConfig, ConfigError, ParallelConfig, StepReuseConfig
from compact_parallel.runtime.parallel.data import DataParallel, rows_of
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.report.ledger import Ledger
from job_facts import degrees_alone, degrees_for
from sampling import (
    SEED,
    TOLERANCE,
    ksampler,
    masked_image,
    model,
    parallel,
    relative_error,
    report,
    without_plan,
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

ARRANGEMENTS = {
    "data 2": (2, {"data_degree": 2}),
    "data 3": (3, {"data_degree": 3}),
    "data 2 x cfg 2": (4, {"data_degree": 2, "cfg_degree": 2}),
    "data 2 x ring 2": (4, {"data_degree": 2, "ring_degree": 2}),
}


def test_the_rows_of_a_group_are_its_entries_of_every_condition():
    assert rows_of(6, 2, 2) == [[0, 1, 3, 4], [2, 5]]
    assert rows_of(4, 1, 4) == [[0], [1], [2], [3]]
    assert rows_of(1, 1, 2) == [[0], []]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(("family", "batch"), [("flux", 4), ("sd3", 3), ("wan", 3)])
def test_every_arrangement_gives_the_stock_result(family, batch, arrangement):
    world, strategy = ARRANGEMENTS[arrangement]
    stock = ksampler(model(family), family, batch=batch)
    assert relative_error(ksampler(parallel(model(family), world, **strategy), family, batch=batch), stock) < TOLERANCE
    assert report()["warnings"] == [] and report()["bytes_sent"] > 0
    assert relative_error(stock[:1], stock[1:2]) > 100 * TOLERANCE  # the entries differ


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "euler_ancestral", "heun"])
def test_noise_that_a_sampler_adds_is_that_of_the_whole_batch(sampler):
    stock = ksampler(model("flux"), "flux", sampler, batch=3)
    samples = ksampler(parallel(model("flux"), 2, data_degree=2), "flux", sampler, batch=3)
    assert relative_error(samples, stock) < TOLERANCE


def test_every_entry_keeps_its_own_prompt_and_mask():
    prompts = [comfy_models.conditioning(seed)[0][0] for seed in (1, 3, 4)]
    positive = [[torch.cat(prompts), comfy_models.conditioning(1)[0][1]]]
    latent = masked_image("flux")
    latent = {"samples": latent["samples"].repeat(3, 1, 1, 1), "noise_mask": latent["noise_mask"].repeat(3, 1, 1, 1)}
    latent["noise_mask"][1] = 1 - latent["noise_mask"][1]
    asked = {"positive": positive, "latent": latent, "denoise": 0.7}
    stock = ksampler(model("flux"), "flux", **asked)
    assert relative_error(ksampler(parallel(model("flux"), 2, data_degree=2), "flux", **asked), stock) < TOLERANCE
    alike = ksampler(model("flux"), "flux", positive=comfy_models.conditioning(1), latent=latent, denoise=0.7)
    assert relative_error(stock[1:], alike[1:]) > 100 * TOLERANCE  # the prompts matter


def others_entries(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: every group evaluates the entries of the next."""
    from unittest import mock

    def next_ones(*given):
        shares = rows_of(*given)
        return shares[1:] + shares[:1]

    rank = torch.distributed.get_rank()
    if rank == 0:
        with mock.patch("compact_parallel.runtime.parallel.data.rows_of", next_ones):
            return executor(*args, **kwargs)
    return executor(*args, **kwargs)


def test_a_group_that_evaluates_others_entries_is_seen():
    patcher = parallel(model("flux"), 2, data_degree=2)
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, others_entries)
    stock = ksampler(model("flux"), "flux", batch=2)
    assert relative_error(ksampler(patcher, "flux", batch=2), stock) > 100 * TOLERANCE


def test_one_latent_per_entry_and_call_crosses_the_link():
    ksampler(parallel(model("flux"), 2, data_degree=2), "flux", batch=4)
    entry = comfy_models.latent("flux").numel() * 4
    assert report()["bytes_sent"] == 4 * (2 * entry) * 4  # four entries of two conditions, at four calls


def test_with_compression_between_the_tokens_of_a_group():
    int8 = CompressionConfig(mode="codec", codec="int8")
    mesh = {"data_degree": 2, "ring_degree": 2}
    stock = ksampler(model("flux"), "flux", batch=2)
    samples = ksampler(parallel(model("flux"), 4, int8, **mesh), "flux", batch=2)
    assert TOLERANCE < relative_error(samples, stock) < 0.1


def test_with_step_reuse_whose_guesses_are_checked_in_every_entry():
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=2, tolerance=1e-9)  # nothing passes: exact
    patcher = parallel(model("flux"), 4, step_reuse=reuse, data_degree=2, step_degree=2)
    stock = ksampler(model("flux"), "flux", batch=2, steps=12)
    assert relative_error(ksampler(patcher, "flux", batch=2, steps=12), stock) < TOLERANCE
    assert report()["rounds"] == 12
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=2, tolerance=0.0)
    patcher = parallel(model("flux"), 4, step_reuse=reuse, data_degree=2, step_degree=2)
    assert TOLERANCE < relative_error(ksampler(patcher, "flux", batch=2, steps=12), stock) < 0.2
    assert report()["rounds"] < 12


def test_a_model_without_a_plan_shares_its_batch():
    with without_plan(model("flux")):
        stock = ksampler(model("flux"), "flux", batch=2, cfg=1.0)
        samples = ksampler(parallel(model("flux"), 2), "flux", batch=2, cfg=1.0)
        assert relative_error(samples, stock) < TOLERANCE
        assert report()["strategy"]["data_degree"] == 2


def test_a_cache_that_looks_at_the_whole_batch_sees_the_whole_batch():
    cached = comfy_extras.nodes_easycache.EasyCacheNode.execute(model("flux"), 0.5, 0.1, 0.95, False)[0]
    stock = ksampler(cached, "flux", batch=2, steps=8)
    assert relative_error(stock, ksampler(model("flux"), "flux", batch=2, steps=8)) > 100 * TOLERANCE  # it acts
    assert relative_error(ksampler(parallel(cached, 2, data_degree=2), "flux", batch=2, steps=8), stock) < TOLERANCE
    (warning,) = report()["warnings"]
    assert "data_degree did nothing in this run, because patches inside of the model" in warning
    assert warning.endswith("; set data_degree to 1 and use cfg_degree or ring_degree.")


@pytest.mark.parametrize(
    ("rows", "options", "whole", "words"),
    [
        (4, {"cond_or_uncond": [0, 1], "ar_state": {}}, False, "remembers of the whole batch"),
        (5, {"cond_or_uncond": [0, 1]}, False, "not one of the same entries"),
        (4, {"cond_or_uncond": [0, 1]}, True, "patches inside of the model"),
        (1, {}, False, "fewer batch entries than groups"),
    ],
)
def test_what_may_not_be_divided_is_done_whole_and_said(rows, options, whole, words):
    ledger, seen = Ledger(), []

    def model_call(x, *_, **__):
        seen.append(len(x))
        return x

    wrapper = SharedBatch(DataParallel(Axis("data", (0, 1), 0), ledger), model("flux"), whole=whole)
    x = torch.randn(rows, 2)
    assert wrapper(model_call, x, torch.ones(rows), None, None, None, options) is x
    assert seen == [rows] and words in ledger.to_json()["shared"]["data"]["reasons"][0]


def test_hunyuan_3d_whose_model_pairs_conditions_shares_the_batch():
    guided = comfy.samplers.CFGGuider(model("flux"))
    guided.set_conds(comfy_models.conditioning(1), comfy_models.conditioning(2))
    guided.set_cfg(3.0)
    guided.conds = guided.original_conds
    module = guided.model_patcher.model.diffusion_model
    known = type(module)
    try:
        module.__class__ = type("HunYuanDiTPlain", (known,), {})
        assert degrees_for(ParallelConfig(), 2, guided, comfy_models.latent("flux", 2)) == Degrees(data=2)
        assert degrees_for(ParallelConfig(), 2, guided, comfy_models.latent("flux", 1)) == Degrees(cfg=2)
        for batch, alone in ((2, Degrees(step=2)), (1, Degrees(cfg=2))):  # a call alone goes the same way
            latent = comfy_models.latent("flux", batch)
            assert degrees_alone(Degrees(step=2), guided, latent, may_split_tokens=False) == alone
    finally:
        module.__class__ = known


def test_fewer_entries_than_groups_are_refused():
    with pytest.raises(ConfigError, match=r"data_degree is 2 but the latent has a batch of 1; .* batch_size"):
        ksampler(parallel(model("flux"), 2, data_degree=2), "flux", batch=1)


def test_a_cache_keeps_auto_from_sharing_the_batch():
    def guider(patcher):
        made = comfy.samplers.CFGGuider(patcher)
        made.set_conds(comfy_models.conditioning(SEED), [])
        made.set_cfg(1.0)
        made.conds = made.original_conds
        return made

    cached = comfy_extras.nodes_easycache.EasyCacheNode.execute(model("flux"), 0.5, 0.1, 0.95, False)[0]
    assert degrees_for(ParallelConfig(), 2, guider(model("flux")), comfy_models.latent("flux", 2)) == Degrees(data=2)
    assert degrees_for(ParallelConfig(), 2, guider(cached), comfy_models.latent("flux", 2)) == Degrees(ring=2)
