"""The one decision, from facts alone: no model, no worker, a millisecond each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.config import (
    CompressionConfig,
    ConfigError,
    ParallelConfig,
    StepReuseConfig,
    StrategyConfig,
)
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.parallel.step.samplers import LINE, SERIAL, Kind
from compact_parallel.runtime.planner.capabilities import CFG, DATA, EASYCACHE, ROWS, STEP, TOKENS
from compact_parallel.runtime.planner.facts import Asked, JobFacts, ModelFacts, SamplerFacts, Traits
from compact_parallel.runtime.planner.link import Link
from compact_parallel.runtime.planner.run_plan import NO_GUESS, EarlierRuns, RunPlan, plan_run
from compact_parallel.runtime.planner.sharing import NothingToShare

FLUX = ModelFacts("Flux", heads=24)
NO_PLAN = ModelFacts("Unheard", no_plan="There is no plan for Unheard", refusal="There is no plan: use cfg_degree.")
EULER = SamplerFacts("euler", Kind(LINE), calls=20)
JOB = JobFacts(FLUX, batch=1, asked=Asked(1, 1), sampler=EULER)
GUIDED = replace(JOB, asked=Asked(2, 2))
REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2)
FAST = Link(2e9, 1e-5, {})
SLOW = Link(1e8, 1e-3, {"2bit": 1e-12})


def auto(**settings):
    return ParallelConfig(**settings)


def manual(**degrees):
    return ParallelConfig(strategy=StrategyConfig(mode="manual", **degrees))


def traits(**known):
    return replace(FLUX, traits=Traits("A family", **known))


@pytest.mark.parametrize(
    ("facts", "world", "expected"),
    [
        (GUIDED, 2, Degrees(cfg=2)),
        (JOB, 2, Degrees(ring=2)),
        (replace(JOB, batch=2), 2, Degrees(data=2)),
        (replace(JOB, batch=2, sees_batch=True), 2, Degrees(ring=2)),
        (replace(JOB, batch=2, model=traits(batch_is_frames=True)), 2, Degrees(ring=2)),
        (replace(JOB, batch=2, model=traits(mixes_batch=True)), 2, Degrees(ring=2)),
        (replace(GUIDED, model=traits(mixes_batch=True)), 2, Degrees(ring=2)),
        (replace(GUIDED, batch=2, model=traits(pairs_conditions=True)), 2, Degrees(data=2)),
        (replace(GUIDED, model=traits(pairs_conditions=True)), 2, Degrees(cfg=2)),
        (replace(GUIDED, against_cfg="A patch needs both; set cfg_degree to 1."), 2, Degrees(ring=2)),
        (replace(JOB, sparse=True), 2, Degrees(ulysses=2)),
        (replace(JOB, replaced="an object patch (x)"), 2, Degrees(ring=2)),
        (replace(JOB, model=ModelFacts("UNet", kind=ROWS, rows=3)), 4, Degrees(ring=3)),
        (replace(GUIDED, model=NO_PLAN), 4, Degrees(cfg=2)),
        (GUIDED, 4, Degrees(cfg=2, ring=2)),
    ],
)
def test_auto_divides_what_there_is(facts, world, expected):
    assert plan_run(auto(), facts, world).degrees == expected


@pytest.mark.parametrize(
    ("facts", "degrees", "sentence"),
    [
        (JOB, {"cfg_degree": 2}, "the guider evaluates 1 condition per call; set cfg_degree to 1."),
        (JOB, {"data_degree": 2}, "the latent has a batch of 1; set data_degree to 1 or less"),
        (replace(JOB, model=NO_PLAN), {"ring_degree": 2}, "There is no plan: use cfg_degree."),
        (replace(JOB, split_elsewhere=True), {"ring_degree": 2}, "bypass that node"),
        (replace(JOB, batch=2, model=traits(mixes_batch=True)), {"data_degree": 2}, "data_degree takes apart; set it"),
        (replace(GUIDED, model=traits(mixes_batch=True)), {"cfg_degree": 2}, "cfg_degree takes apart; set it"),
        (
            replace(JOB, batch=2, model=traits(batch_is_frames=True)),
            {"data_degree": 2},
            "The batch of A family is the frames of one video, which belong together; set data_degree to 1 and use "
            "ring_degree.",
        ),
        (
            replace(GUIDED, replaced="an object patch (x)", model=replace(FLUX, splits_around_changes=False)),
            {"ring_degree": 2},
            "Flux cannot be split over ranks with an object patch (x), which may look at all of the picture; set "
            "ulysses_degree and ring_degree to 1 and use cfg_degree.",
        ),
        (JOB, {"step_degree": 2, "cfg_degree": 1}, ""),
        (
            replace(JOB, sampler=SamplerFacts("lcm", Kind(SERIAL, reason="r")), model=NO_PLAN),
            {"step_degree": 2},
            "step_degree is 2, but this sampler makes one call after the other",
        ),
    ],
)
def test_degrees_that_were_set_are_taken_or_refused_with_a_way_out(facts, degrees, sentence):
    if not sentence:
        assert plan_run(manual(**degrees), facts, 2).degrees == Degrees(step=2)
        return
    with pytest.raises((Unsupported, ConfigError)) as refused:
        plan_run(manual(**degrees), facts, 2)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("facts", "config", "world", "sentence"),
    [
        (JOB, auto(), 1, "There is one device, so ComfyUI samples as always."),
        (replace(JOB, sampler=SamplerFacts("lcm", Kind(SERIAL, reason="r"))), auto(step_reuse=REUSE), 1, "because r."),
    ],
)
def test_one_device_samples_as_always(facts, config, world, sentence):
    with pytest.raises(NothingToShare, match=sentence):
        plan_run(config, facts, world)


def test_where_nothing_can_be_shared_it_is_said_how_there_would_be():
    for one_at_cfg_1, higher in ((True, "set CFG above 1, or "), (False, "share; set on_unsupported")):
        with pytest.raises(Unsupported) as refused:
            plan_run(auto(), replace(JOB, model=NO_PLAN, one_at_cfg_1=one_at_cfg_1), 2)
        assert str(refused.value).startswith("There is no plan for Unheard and one condition per call")
        assert higher in str(refused.value)
    rows = ModelFacts("UNet", kind=ROWS, rows=1)
    with pytest.raises(Unsupported, match="The picture has too few rows for UNet to be split"):
        plan_run(auto(), replace(JOB, model=rows), 2)


@pytest.mark.parametrize(
    ("capability", "facts", "degree"),
    [
        (CFG, GUIDED, "cfg_degree"),
        (DATA, replace(JOB, batch=2), "data_degree"),
        (TOKENS, JOB, "ring_degree"),
        (TOKENS, JOB, "ulysses_degree"),
        (ROWS, replace(JOB, model=ModelFacts("UNet", kind=ROWS, rows=4)), "ring_degree"),
        (STEP, JOB, "step_degree"),
    ],
)
def test_what_the_installed_comfyui_lacks_is_refused_and_nothing_else(capability, facts, degree):
    plan_run(manual(**{degree: 2}), facts, 2)
    with pytest.raises(Unsupported, match=f"{degree} is 2, but it is gone; set {degree} to 1"):
        plan_run(manual(**{degree: 2}), facts, 2, lost={capability: "it is gone"})
    for other in {CFG, DATA, TOKENS, ROWS, STEP} - {capability}:
        plan_run(manual(**{degree: 2}), facts, 2, lost={other: "it is gone"})


def test_easycache_needs_more_than_cfg_parallelism_does():
    lost = {EASYCACHE: "it is gone"}
    assert plan_run(auto(), GUIDED, 2, lost=lost).degrees == Degrees(cfg=2)
    assert plan_run(auto(), replace(GUIDED, easycache=True), 2, lost=lost).degrees == Degrees(ring=2)


def test_before_the_job_is_known_only_what_is_wrong_for_every_job_is_refused():
    assert isinstance(plan_run(manual(ring_degree=2), None, 2), RunPlan)
    with pytest.raises(ConfigError, match=r"multiply to 2 .* the pool has 3 workers"):
        plan_run(manual(ring_degree=2), None, 3)
    with pytest.raises(ConfigError, match="step_degree is 4 but look_ahead of Step Reuse is 2"):
        plan_run(replace(manual(step_degree=4), step_reuse=REUSE), None, 4)
    plan_run(manual(ring_degree=2), None, 2, lost={TOKENS: "it is gone"})  # the model may be a UNet
    with pytest.raises(Unsupported, match="ring_degree is 2"):
        plan_run(manual(ring_degree=2), None, 2, lost={TOKENS: "it is gone", ROWS: "it is gone"})


def test_step_reuse_needs_calls_enough():
    assert plan_run(auto(step_reuse=REUSE), JOB, 2).degrees == Degrees(step=2)
    few = replace(JOB, sampler=replace(EULER, calls=7))
    with pytest.raises(Unsupported, match=r"at least 8 model calls .* this run has 7; use more steps, or unplug"):
        plan_run(auto(step_reuse=REUSE), few, 2)
    with pytest.raises(Unsupported, match="use one of the two"):
        plan_run(auto(step_reuse=REUSE), replace(JOB, against_look_ahead="A cache; use one of the two."), 2)


def test_calls_of_different_steps_are_one_batch_unless_something_is_against_it():
    assert plan_run(auto(step_reuse=REUSE), JOB, 1).ahead.batches
    plan = plan_run(auto(step_reuse=REUSE), replace(JOB, against_batched_calls="the latent has a noise mask"), 2)
    assert not plan.ahead.batches and plan.ahead.config.enabled
    with pytest.raises(Unsupported, match=r"because the latent has a noise mask\. With step_degree 1 nothing is left"):
        plan_run(auto(step_reuse=REUSE), replace(JOB, against_batched_calls="the latent has a noise mask"), 1)
    with pytest.raises(Unsupported, match="the entries of a batch see each other"):
        plan_run(auto(step_reuse=REUSE), replace(JOB, model=traits(mixes_batch=True)), 1)


def test_the_next_run_goes_by_what_was_seen():
    unsure = replace(JOB, asked=Asked(2, None))
    assert plan_run(auto(), unsure, 2).degrees == Degrees(cfg=2)
    assert plan_run(auto(), unsure, 2, seen=EarlierRuns(conditions=1)).degrees == Degrees(ring=2)
    assert plan_run(auto(), GUIDED, 2, seen=EarlierRuns(conditions=1)).degrees == Degrees(cfg=2)  # here it is certain
    plan = plan_run(auto(step_reuse=REUSE), JOB, 2, seen=EarlierRuns(idle=frozenset({"step"})))
    assert plan.degrees == Degrees(ring=2) and plan.ahead.warnings == (NO_GUESS,)
    with pytest.raises(NothingToShare, match="The last run of this workflow has shown"):
        plan_run(auto(), replace(JOB, model=NO_PLAN), 2, seen=EarlierRuns(idle=frozenset({"cfg"})))


def test_a_fast_link_splits_the_tokens_of_calls_that_come_alone_and_a_slow_one_compresses():
    config = auto(step_reuse=REUSE)
    assert plan_run(config, JOB, 2).alone == Degrees(step=2)
    assert plan_run(config, JOB, 2, FAST).alone == Degrees(ring=2)
    assert plan_run(config, replace(JOB, controlled=True), 2, FAST).alone == Degrees(step=2)
    assert plan_run(auto(), JOB, 2).compression.mode == "off"
    assert plan_run(auto(), JOB, 2, FAST).compression.mode == "off"
    assert plan_run(auto(), JOB, 2, SLOW).compression == replace(CompressionConfig(), mode="codec", codec="2bit")


GLOO, RISER, PCIE = Link(2e9, 1e-4, {}, "gloo"), Link(8e8, 1e-4, {}, "nccl"), Link(8e9, 3e-5, {}, "nccl")
CODED = CompressionConfig(mode="codec", codec="2bit")
CODES_FAST = replace(GLOO, codec_seconds_per_value={"2bit": 1e-12})


@pytest.mark.parametrize("link", [GLOO, RISER])
def test_auto_never_splits_tokens_over_a_link_between_cards_that_is_too_slow(link):
    with pytest.raises(
        NothingToShare, match=rf"auto does not divide tokens between these cards.*\({link.cards}, .* GB/s"
    ):
        plan_run(auto(), JOB, 2, link)
    for facts, world, expected in ((GUIDED, 2, Degrees(cfg=2)), (replace(JOB, batch=2), 2, Degrees(data=2))):
        plan = plan_run(auto(), facts, world, link)
        assert (plan.degrees, plan.warnings) == (expected, ())
    plan = plan_run(auto(), GUIDED, 4, link)
    assert plan.degrees == Degrees(cfg=2)
    assert plan.warnings == (link.against_tokens,)
    plan = plan_run(auto(step_reuse=REUSE), JOB, 2, link)
    assert (plan.degrees, plan.alone) == (Degrees(step=2), Degrees(step=2))


@pytest.mark.parametrize(
    ("config", "link"),
    [
        (auto(compression=CODED), GLOO),
        (auto(), CODES_FAST),
        (auto(), PCIE),
        (auto(), SLOW),
        (auto(), replace(SLOW, codec_seconds_per_value={})),
        (auto(), None),
        (manual(ring_degree=2), GLOO),
        (manual(ring_degree=2), RISER),
    ],
    ids=[
        "a codec",
        "a codec by auto",
        "PCIe",
        "CPUs",
        "CPUs without a codec",
        "not measured",
        "by hand",
        "by hand, too",
    ],
)
def test_tokens_are_split_where_a_codec_carries_them_between_cpus_and_by_hand(config, link):
    plan = plan_run(config, JOB, 2, link)
    assert (plan.degrees, plan.warnings) == (Degrees(ring=2), ())


def test_a_plan_travels_as_json():
    config = replace(manual(step_degree=2), step_reuse=REUSE, compression=CompressionConfig(mode="codec"))
    plan = plan_run(config, replace(JOB, sees_batch=True), 2, SLOW)
    assert RunPlan.from_json(plan.to_json()) == plan
    assert RunPlan.from_json({**plan.to_json(), "whole_batch": False}) != plan
    slow = plan_run(auto(), GUIDED, 4, GLOO)
    assert slow.warnings and RunPlan.from_json(slow.to_json()) == slow
