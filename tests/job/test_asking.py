"""How many conditions a guider asks for, told before a run: what ComfyUI's guiders do, and what cannot be known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import comfy.samplers
import comfy_extras.nodes_advanced_samplers as advanced
import comfy_extras.nodes_perpneg as perpneg
import comfy_models
import pytest
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.comfy.describe.conditions_per_call import asked_by
from compact_parallel.runtime.comfy.describe.customisations import scan_job
from compact_parallel.runtime.comfy.describe.fingerprint import way_of_asking
from compact_parallel.runtime.config import ConfigError, ParallelConfig, StrategyConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.planner.facts import Asked
from compact_parallel.runtime.sharding import plans
from job_facts import degrees_for
from sampling import custom, model, without_plan

NOISE = comfy_models.latent("flux")
POSITIVE, MIDDLE, NEGATIVE = (comfy_models.conditioning(seed) for seed in (1, 3, 2))


def arguments(patcher, sampler="euler", steps=8):
    """What outer_sample is called with, as far as it counts here."""
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", steps)
    return SimpleNamespace(sampler=sampler, sigmas=sigmas, noise=NOISE)


def cfg_guider(patcher, cfg, negative=NEGATIVE, kind=comfy.samplers.CFGGuider):
    made = kind(patcher)
    made.set_conds(POSITIVE, negative)
    made.set_cfg(cfg)
    made.conds = made.original_conds
    return made


def of(node, *given):
    """The guider that a node makes."""
    made = node.execute(*given)[0]
    made.conds = made.original_conds
    return made


def overridden(*overrides):
    """Flux with CFG Override nodes, each (cfg, start, end)."""
    patcher = model("flux")
    for override in overrides:
        patcher = custom.CFGOverride.execute(patcher, *override)[0]
    return patcher


class OneAtATime(comfy.samplers.CFGGuider):
    """A pack's guider."""

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
        raise NotImplementedError


def wrapped(kind):
    patcher = model("flux").clone()
    patcher.add_wrapper(kind, lambda executor, *args, **kwargs: executor(*args, **kwargs))
    return patcher


def evaluated_by_a_patch():
    patcher = model("flux").clone()
    patcher.set_model_sampler_calc_cond_batch_function(print)
    return patcher


CASES = {
    "one prompt": (lambda: of(custom.BasicGuider, model("flux"), POSITIVE), "euler", Asked(1, 1)),
    "CFG 3": (lambda: cfg_guider(model("flux"), 3.0), "euler", Asked(2, 2)),
    "CFG 1": (lambda: cfg_guider(model("flux"), 1.0), "euler", Asked(1, 1)),
    "an empty negative": (lambda: cfg_guider(model("flux"), 3.0, []), "euler", Asked(1, 1)),
    "CFG++ at CFG 1": (lambda: cfg_guider(model("flux"), 1.0), "euler_cfg_pp", Asked(2, 2)),
    "CFG++ by an option": (
        lambda: cfg_guider(model("flux"), 1.0),
        comfy.samplers.ksampler("gradient_estimation", {"cfg_pp": True}),
        Asked(2, 2),
    ),
    "the same without": (lambda: cfg_guider(model("flux"), 1.0), "gradient_estimation", Asked(1, 1)),
    "Euler++ at CFG 1": (
        lambda: cfg_guider(model("flux"), 1.0),
        comfy.samplers.KSAMPLER(advanced.sample_euler_pp),
        Asked(2, None),
    ),
    "CFG Override to 3": (lambda: cfg_guider(overridden((3.0, 0.0, 1.0)), 1.0), "euler", Asked(2, 2)),
    "CFG Override to 3 at the start": (lambda: cfg_guider(overridden((3.0, 0.0, 0.2)), 1.0), "euler", Asked(1, 2)),
    "CFG Override to 1": (lambda: cfg_guider(overridden((1.0, 0.0, 1.0)), 3.0), "euler", Asked(1, 2)),
    "CFG Override to 1 at the end": (lambda: cfg_guider(overridden((1.0, 0.8, 1.0)), 3.0), "euler", Asked(2, 2)),
    "CFG Overrides, the last nearest": (
        lambda: cfg_guider(overridden((3.0, 0.0, 1.0), (1.0, 0.0, 1.0)), 1.0),
        "euler",
        Asked(1, 2),
    ),
    "dual": (lambda: of(custom.DualCFGGuider, model("flux"), POSITIVE, MIDDLE, NEGATIVE, 3.0, 2.0, "regular"),
             "euler", Asked(3, 3)),
    "dual at 3 and 1": (lambda: of(custom.DualCFGGuider, model("flux"), POSITIVE, MIDDLE, NEGATIVE, 3.0, 1.0,
                                   "regular"), "euler", Asked(2, 2)),
    "dual at 1 and 1": (lambda: of(custom.DualCFGGuider, model("flux"), POSITIVE, MIDDLE, NEGATIVE, 1.0, 1.0,
                                   "regular"), "euler", Asked(1, 1)),
    "dual, nested at 1 and 1": (lambda: of(custom.DualCFGGuider, model("flux"), POSITIVE, MIDDLE, NEGATIVE, 1.0, 1.0,
                                           "nested"), "euler", Asked(3, 3)),
    "two models": (lambda: of(custom.DualModelGuider, model("flux"), POSITIVE, 3.0, model("flux"), NEGATIVE),
                   "euler", Asked(1, 1)),
    "PerpNeg": (lambda: of(perpneg.PerpNegGuider, model("flux"), POSITIVE, NEGATIVE, MIDDLE, 3.0, 0.5),
                "euler", Asked(3, 3)),
    "PerpNeg without negative": (lambda: of(perpneg.PerpNegGuider, model("flux"), POSITIVE, NEGATIVE, MIDDLE, 3.0, 0.0),
                                 "euler", Asked(2, 2)),
    "a pack's guider": (lambda: cfg_guider(model("flux"), 1.0, kind=OneAtATime), "euler", Asked(2, None)),
    "a pack's sampler": (lambda: cfg_guider(model("flux"), 1.0), comfy.samplers.KSAMPLER(print), Asked(1, None)),
    "a wrapper around the guider": (
        lambda: cfg_guider(wrapped(WrappersMP.PREDICT_NOISE), 1.0), "euler", Asked(1, None)
    ),
    "a wrapper around the sampler": (
        lambda: cfg_guider(wrapped(WrappersMP.SAMPLER_SAMPLE), 1.0), "euler", Asked(1, None)
    ),
    "a patch that evaluates": (lambda: cfg_guider(evaluated_by_a_patch(), 1.0), "euler", Asked(1, None)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_guider_asks_for(case):
    make, sampler, asked = CASES[case]
    guider = make()
    assert asked_by(guider, scan_job(guider), arguments(guider.model_patcher, sampler)) == asked


def manual(**degrees):
    return ParallelConfig(strategy=StrategyConfig(mode="manual", **degrees))


@pytest.mark.parametrize("case", CASES)
def test_manual_is_refused_only_where_it_is_certain(case):
    make, sampler, asked = CASES[case]
    guider = make()
    known = asked_by(guider, scan_job(guider), arguments(guider.model_patcher, sampler))
    if asked.most == 1:
        with pytest.raises(ConfigError, match=r"evaluates 1 condition per call; set cfg_degree to 1\."):
            degrees_for(manual(cfg_degree=2), 2, guider, NOISE, asked=known)
    else:
        assert degrees_for(manual(cfg_degree=2), 2, guider, NOISE, asked=known) == Degrees(cfg=2)


def test_auto_goes_by_what_most_calls_ask_for():
    for case, (make, sampler, asked) in CASES.items():
        guider = make()
        known = asked_by(guider, scan_job(guider), arguments(guider.model_patcher, sampler))
        expected = Degrees(cfg=2) if asked.usual > 1 else Degrees(ring=2)
        assert degrees_for(ParallelConfig(), 2, guider, NOISE, asked=known) == expected, case


def test_a_workflow_is_known_again_by_how_it_asks_and_not_by_what_it_draws():
    def key(cfg=3.0, patcher=None, sampler="euler", positive=1, kind=comfy.samplers.CFGGuider):
        made = cfg_guider(patcher or model("flux"), cfg, kind=kind)
        made.conds = {**made.conds, "positive": comfy.sampler_helpers.convert_cond(comfy_models.conditioning(positive))}
        return way_of_asking(made, comfy.samplers.sampler_object(sampler))

    assert key() == key() == key(positive=4)
    others = [
        key(cfg=1.0),
        key(sampler="dpmpp_2m"),
        key(kind=OneAtATime),
        key(patcher=evaluated_by_a_patch()),
        key(patcher=wrapped(WrappersMP.PREDICT_NOISE)),
        key(patcher=model("sd3")),
    ]
    assert len({key(), *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("cfg", "way_out"),
    [
        (3.0, "; set ulysses_degree and ring_degree to 1 and use cfg_degree."),
        (1.0, '; set on_unsupported of Parallel Model to "run on one device".'),
    ],
)
def test_a_way_out_is_one_that_this_job_has(cfg, way_out, monkeypatch):
    changed = model("flux").clone()
    changed.add_object_patch("diffusion_model.final_layer.forward", print)
    monkeypatch.setattr(plans, "PLANS", (replace(plans.flux.PLAN, blocks=(), passed=()),))
    with pytest.raises(Unsupported, match="with an object patch") as caught:
        degrees_for(manual(ring_degree=2), 2, cfg_guider(changed, cfg), NOISE)
    assert str(caught.value).endswith(way_out)


@pytest.mark.parametrize(
    ("make", "higher"),
    [
        (lambda: cfg_guider(model("flux"), 1.0), True),
        (lambda: of(custom.BasicGuider, model("flux"), POSITIVE), False),
        (lambda: of(custom.DualModelGuider, model("flux"), POSITIVE, 3.0, model("flux"), NEGATIVE), False),
    ],
)
def test_a_higher_cfg_is_a_way_out_only_where_it_brings_a_second_condition(make, higher):
    with without_plan(model("flux")), pytest.raises(Unsupported, match="no sequence-parallel plan") as caught:
        degrees_for(ParallelConfig(), 2, make(), NOISE)
    assert ("set CFG above 1" in str(caught.value)) == higher
    assert str(caught.value).endswith('on_unsupported of Parallel Model to "run on one device".')
