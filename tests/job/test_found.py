"""What the degrees find to do shows in the calls: it is said, and auto goes by it in the next run."""

from __future__ import annotations

import sys

import cloudpickle
import comfy.samplers
import comfy_models
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.config import ConfigError, StepReuseConfig
from compact_parallel.runtime.planner.experience import experience
from sampling import NOTHING_PASSES, TOLERANCE, custom, ksampler, model, parallel, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

POSITIVE, NEGATIVE = comfy_models.conditioning(1), comfy_models.conditioning(2)


@pytest.fixture(autouse=True)
def nothing_known():
    """Each test begins in a process that has run nothing."""
    experience.cache_clear()


class OneAtATime(comfy.samplers.CFGGuider):
    """A pack's guider, which asks for one condition after the other."""

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
        said = [
            comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[name]], x, timestep, model_options)[0]
            for name in ("negative", "positive")
        ]
        return said[0] + (said[1] - said[0]) * self.cfg


def guide(guider, batch=1):
    """The samples of a guider."""
    sigmas = comfy.samplers.calculate_sigmas(guider.model_patcher.get_model_object("model_sampling"), "simple", steps=4)
    latent = comfy_models.latent("flux", batch)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, seed=1)


def one_at_a_time(patcher, batch=1, cfg=3.0):
    guider = OneAtATime(patcher)
    guider.set_conds(POSITIVE, NEGATIVE)
    guider.set_cfg(cfg)
    return guide(guider, batch)


def two_models(patcher, cfg=3.0):
    return guide(custom.DualModelGuider.execute(patcher, POSITIVE, cfg, model("flux"), NEGATIVE)[0])


def used() -> dict:
    """The degrees of the last run that are not 1."""
    degrees = {name: report()["strategy"][name] for name in report()["strategy"] if name.endswith("_degree")}
    return {name: degree for name, degree in degrees.items() if degree > 1}


def test_two_models_of_which_each_has_a_condition_share_the_tokens():
    samples = two_models(parallel(model("flux"), 2))
    assert used() == {"ring_degree": 2}
    assert report()["bytes_sent"] > 0 and report()["warnings"] == []
    stock = two_models(model("flux"))
    assert relative_error(samples, stock) < TOLERANCE
    assert relative_error(two_models(model("flux"), 2.0), stock) > 100 * TOLERANCE


def test_two_models_with_cfg_degree_are_refused_truly():
    with pytest.raises(ConfigError, match="cfg_degree is 2 but the guider evaluates 1 condition per call"):
        two_models(parallel(model("flux"), 2, cfg_degree=2))


def test_auto_learns_that_a_guider_asks_for_one_condition_at_a_time():
    stock = one_at_a_time(model("flux"))
    patcher = parallel(model("flux"), 2)
    assert relative_error(one_at_a_time(patcher), stock) < TOLERANCE
    assert used() == {"cfg_degree": 2} and report()["bytes_sent"] == 0
    assert report()["warnings"] == [
        "cfg_degree 2 did nothing in this run: no call of the model asked for more than 1 condition at a time; auto "
        "does not choose it again for this workflow."
    ]
    assert relative_error(one_at_a_time(patcher), stock) < TOLERANCE
    assert used() == {"ring_degree": 2} and report()["bytes_sent"] > 0
    assert report()["warnings"] == []
    one_at_a_time(patcher, cfg=2.0)  # another way to ask, of which nothing is known
    assert used() == {"cfg_degree": 2}


def test_manual_runs_where_only_the_calls_can_tell_and_says_what_they_were():
    samples = one_at_a_time(parallel(model("flux"), 2, cfg_degree=2))
    assert relative_error(samples, one_at_a_time(model("flux"))) < TOLERANCE
    (warning,) = report()["warnings"]
    assert warning.startswith("cfg_degree 2 did nothing in this run: no call of the model asked for more than 1 cond")
    assert warning.endswith("; set cfg_degree to 1 and use ring_degree.")


@pytest.mark.parametrize("strategy", [{}, {"cfg_degree": 2}], ids=["auto", "manual"])
def test_cfg_pp_shares_its_conditions_at_cfg_1(strategy):
    stock = ksampler(model("flux"), "flux", "euler_cfg_pp", cfg=1.0)
    samples = ksampler(parallel(model("flux"), 2, **strategy), "flux", "euler_cfg_pp", cfg=1.0)
    assert relative_error(samples, stock) < TOLERANCE
    assert used() == {"cfg_degree": 2} and report()["bytes_sent"] > 0
    assert report()["warnings"] == []
    assert relative_error(stock, ksampler(model("flux"), "flux", "euler", cfg=1.0)) > 100 * TOLERANCE


@pytest.mark.parametrize("strategy", [{}, {"cfg_degree": 2}], ids=["auto", "manual"])
def test_cfg_override_that_raises_cfg_shares_its_conditions(strategy):
    patched = custom.CFGOverride.execute(model("flux"), 3.0, 0.0, 1.0)[0]
    stock = ksampler(patched, "flux", cfg=1.0)
    assert relative_error(ksampler(parallel(patched, 2, **strategy), "flux", cfg=1.0), stock) < TOLERANCE
    assert used() == {"cfg_degree": 2} and report()["bytes_sent"] > 0
    assert report()["warnings"] == []
    assert relative_error(stock, ksampler(model("flux"), "flux", cfg=1.0)) > 100 * TOLERANCE


def raise_cfg(executor, *args, **kwargs):
    """PREDICT_NOISE wrapper of a pack: CFG 3 whatever is set."""
    executor.class_obj.cfg = 3.0
    return executor(*args, **kwargs)


def test_auto_learns_that_a_wrapper_raises_cfg():
    patched = model("flux").clone()
    patched.add_wrapper(WrappersMP.PREDICT_NOISE, raise_cfg)
    stock = ksampler(patched, "flux", cfg=1.0)
    for degrees in ({"ring_degree": 2}, {"cfg_degree": 2}):
        assert relative_error(ksampler(parallel(patched, 2), "flux", cfg=1.0), stock) < TOLERANCE
        assert used() == degrees
        assert report()["warnings"] == []


def test_a_patch_that_evaluates_the_conditions_through_comfyui_shares_them():
    def evaluate(args):
        said = [
            comfy.samplers.calc_cond_batch(
                args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
            )
        ]
        return [0.9 * each for each in said[0]]

    patched = model("flux").clone()
    patched.set_model_sampler_calc_cond_batch_function(evaluate)
    stock = ksampler(patched, "flux")
    assert relative_error(ksampler(parallel(patched, 2, cfg_degree=2), "flux"), stock) < TOLERANCE
    assert report()["warnings"] == [] and report()["bytes_sent"] > 0
    assert relative_error(stock, ksampler(model("flux"), "flux")) > 100 * TOLERANCE


def remember_the_batch(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
    """APPLY_MODEL wrapper: what the causal Wan sampler puts into the options."""
    return executor(x, t, c_concat, c_crossattn, control, {**options, "ar_state": {}}, **kwargs)


def test_auto_learns_that_a_batch_cannot_be_divided():
    patched = model("flux").clone()
    patched.add_wrapper(WrappersMP.APPLY_MODEL, remember_the_batch)
    stock = ksampler(patched, "flux", cfg=1.0, batch=2)
    assert relative_error(ksampler(parallel(patched, 2), "flux", cfg=1.0, batch=2), stock) < TOLERANCE
    assert used() == {"data_degree": 2} and report()["bytes_sent"] == 0
    assert report()["warnings"] == [
        "data_degree did nothing in this run, because the sampler keeps what the model remembers of the whole batch, "
        "so every worker did it whole; auto does not choose it again for this workflow."
    ]
    assert relative_error(ksampler(parallel(patched, 2), "flux", cfg=1.0, batch=2), stock) < TOLERANCE
    assert used() == {"ring_degree": 2} and report()["warnings"] == []


def in_place_of_the_model(executor, x, *args, **kwargs):
    """APPLY_MODEL wrapper that never calls the model."""
    return 0.5 * x


def test_where_nothing_can_be_split_the_next_run_is_one_devices():
    patched = model("flux").clone()
    patched.add_wrapper(WrappersMP.APPLY_MODEL, in_place_of_the_model)
    stock = ksampler(patched, "flux", cfg=1.0)
    assert relative_error(ksampler(parallel(patched, 2), "flux", cfg=1.0), stock) < TOLERANCE
    assert used() == {"ring_degree": 2}
    (warning,) = report()["warnings"]
    assert warning.startswith("ulysses_degree and ring_degree did nothing in this run: no part of the model could be ")
    assert relative_error(ksampler(parallel(patched, 2), "flux", cfg=1.0), stock) < TOLERANCE
    assert report()["fallbacks"] == [
        "The last run of this workflow has shown that its workers have nothing to share, so ComfyUI samples as always."
    ]


def test_step_reuse_whose_guesses_are_never_accepted_says_so():
    ksampler(parallel(model("flux"), 2, step_reuse=NOTHING_PASSES, step_degree=2), "flux", steps=8, cfg=1.0)
    (warning,) = report()["warnings"]
    assert warning.startswith("Step Reuse did nothing in this run: no guess was accepted in ")
    assert warning.endswith(
        "; a tolerance above 1e-09 accepts more and changes the picture more, or unplug Step Reuse."
    )


def test_auto_does_not_look_ahead_again_where_no_guess_was_accepted():
    for reuse, second in ((NOTHING_PASSES, {"ring_degree": 2}), (ALL_PASSES, {"step_degree": 2})):
        patcher = parallel(model("flux"), 2, step_reuse=reuse)
        ksampler(patcher, "flux", steps=8, cfg=1.0)
        assert used() == {"step_degree": 2}
        ksampler(patcher, "flux", steps=8, cfg=1.0)
        assert used() == second
        said = any("no guess was accepted when this workflow ran last" in text for text in report()["warnings"])
        assert said == (reuse is NOTHING_PASSES)


ALL_PASSES = StepReuseConfig(mode="look_ahead", look_ahead=2, warmup_calls=1, tolerance=0.0)


@pytest.mark.parametrize("strategy", [{"cfg_degree": 2}, {"ring_degree": 2}, {"data_degree": 2}], ids=str)
def test_all_ranks_see_the_same_calls(strategy, monkeypatch):
    seen = []
    observe = sys.modules["compact_parallel.runtime.comfy.run.choice"].observe
    monkeypatch.setattr(
        "compact_parallel.runtime.comfy.run.choice.observe",
        lambda ledgers, *given: seen.extend(ledgers) or observe(ledgers, *given),
    )
    ksampler(parallel(model("flux"), 2, **strategy), "flux", batch=2)
    first, second = seen
    assert first["asked"] == second["asked"] == {"2": 4}
    assert first["shared"] == second["shared"]
    (kind,) = first["shared"]
    assert first["shared"][kind] == {"divided": 4, "whole": 0, "reasons": []}
