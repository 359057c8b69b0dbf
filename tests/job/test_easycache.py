"""EasyCache and LazyCache on workers: the steps they skip are those that one device skips."""

from __future__ import annotations

import sys

import cloudpickle
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_easycache as caching
import comfy_models
import pytest
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.pool.errors import JobFailed
from sampling import TOLERANCE, ksampler, model, parallel, relative_error

import nodes as stock

cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEPS = 12
WAYS = {
    "all_gather": (2, {"ring_degree": 2}),
    "ulysses": (2, {"ulysses_degree": 2}),
    "cfg": (2, {"cfg_degree": 2}),
    "cfg x all_gather": (4, {"cfg_degree": 2, "ring_degree": 2}),
}


def cached(patcher, node=caching.EasyCacheNode):
    return node.execute(patcher, 0.5, 0.1, 0.95, False)[0]


def agrees(sample, world=2, **strategy) -> None:
    """`sample` on workers equals `sample` on one device, where it skips steps."""
    exact = sample(cached(model("flux")))
    assert relative_error(exact, sample(model("flux"))) > TOLERANCE, "it skipped steps"
    assert relative_error(sample(parallel(cached(model("flux")), world, **strategy)), exact) < TOLERANCE


@pytest.mark.parametrize("order", ("before", "after"))
@pytest.mark.parametrize("way", WAYS)
def test_easy_cache_skips_the_same_steps(way, order):
    world, strategy = WAYS[way]
    exact = ksampler(cached(model("flux")), "flux", steps=STEPS)
    if order == "before":
        patched = parallel(cached(model("flux")), world, **strategy)
    else:
        patched = cached(parallel(model("flux"), world, **strategy))
    assert relative_error(ksampler(patched, "flux", steps=STEPS), exact) < TOLERANCE
    assert relative_error(exact, ksampler(model("flux"), "flux", steps=STEPS)) > TOLERANCE  # it did skip steps


def guided(guider, steps=STEPS):
    """The samples of a guider."""
    sigmas = comfy.samplers.calculate_sigmas(guider.model_patcher.get_model_object("model_sampling"), "simple", steps)
    latent = comfy_models.latent("flux")
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, seed=1)


def with_ranges(patcher):
    """The condition that decides takes part in the first steps only."""
    negative = stock.ConditioningSetTimestepRange().set_range(comfy_models.conditioning(2), 0.0, 0.6)[0]
    late = stock.ConditioningSetTimestepRange().set_range(comfy_models.conditioning(3), 0.6, 1.0)[0]
    both = stock.ConditioningCombine().combine(negative, late)[0]
    return ksampler(patcher, "flux", steps=STEPS, negative=both)


def with_three(patcher):
    """Three conditions on two workers."""
    given = [comfy_models.conditioning(seed) for seed in (1, 2, 3)]
    return guided(custom.DualCFGGuider.execute(patcher, *given, 3.0, 2.0, "regular")[0])


def apart(patcher):
    """Conditions that ComfyUI evaluates one after the other."""
    return ksampler(patcher, "flux", steps=STEPS, negative=comfy_models.conditioning(2, tokens=11))


def apart_with_ranges(patcher):
    """The condition that does not decide, and is evaluated on its own, takes part in the first steps only."""
    negative = comfy_models.conditioning(2, tokens=11)
    early = stock.ConditioningSetTimestepRange().set_range(negative, 0.0, 0.5)[0]
    return ksampler(patcher, "flux", steps=STEPS, negative=early)


@pytest.mark.parametrize("sample", (with_ranges, with_three, apart, apart_with_ranges))
def test_the_condition_that_decides_is_that_of_one_device(sample):
    agrees(sample, cfg_degree=2)


class CfgUntilHalf(comfy.samplers.CFGGuider):
    """Stops guiding half-way, as some packs do to save calls."""

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        guided = float(timestep[0]) > 0.5
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds["negative"] if guided else None, self.conds["positive"], 3.0,
            model_options=model_options, seed=seed,
        )  # fmt: skip


def test_a_condition_that_stops_taking_part_is_refused():
    guider = CfgUntilHalf(parallel(cached(model("flux")), 2, cfg_degree=2))
    guider.set_conds(comfy_models.conditioning(1), comfy_models.conditioning(2))
    words = r"some calls ask for one and others for more .* set cfg_degree to 1"
    with pytest.raises((Unsupported, JobFailed), match=words):
        guided(guider)


class OneAtATime(comfy.samplers.CFGGuider):
    """Asks for one condition after the other."""

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        negative, positive = (
            comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[name]], x, timestep, model_options)[0]
            for name in ("negative", "positive")
        )
        return negative + (positive - negative) * 3.0


def one_at_a_time(patcher):
    """Every worker evaluates every condition."""
    guider = OneAtATime(patcher)
    guider.set_conds(comfy_models.conditioning(1), comfy_models.conditioning(2))
    return guided(guider)


def test_where_nothing_is_divided_every_worker_decides_like_one_device():
    agrees(one_at_a_time, cfg_degree=2)


def test_lazy_cache_works_under_cfg_parallelism():
    exact = ksampler(cached(model("flux"), caching.LazyCacheNode), "flux", steps=STEPS)
    patched = parallel(cached(model("flux"), caching.LazyCacheNode), 2, cfg_degree=2)
    assert relative_error(ksampler(patched, "flux", steps=STEPS), exact) < TOLERANCE
