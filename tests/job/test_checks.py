"""Which degrees a job gets by itself, and how the mesh lies."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import comfy_models
import pytest
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.comfy.run.choice import choose
from compact_parallel.runtime.comfy.run.devices import ROCM, devices_of, remarks
from compact_parallel.runtime.config import (
    CompressionConfig,
    ConfigError,
    ParallelConfig,
    PoolConfig,
    StepReuseConfig,
    StrategyConfig,
)
from compact_parallel.runtime.parallel.cfg import owners
from compact_parallel.runtime.parallel.mesh import Degrees, axis_ranks
from compact_parallel.runtime.planner.degrees import auto_degrees, manual_degrees, one_by_one
from compact_parallel.runtime.planner.look_ahead import LookAhead, limited
from compact_parallel.runtime.planner.run_plan import plan_run
from compact_parallel.runtime.planner.sharing import NothingToShare
from compact_parallel.runtime.sharding import plans
from job_facts import degrees_for, unmet
from sampling import custom, model, without_plan

KNOWN = {"splits_tokens": True, "heads": 24}
NOISE = comfy_models.latent("flux")


@pytest.mark.parametrize(
    ("world", "conditions", "changes", "expected"),
    [
        (2, 2, {}, Degrees(cfg=2)),
        (2, 1, {}, Degrees(ring=2)),
        (3, 2, {}, Degrees(ulysses=3)),
        (4, 1, {}, Degrees(ulysses=4)),
        (4, 2, {}, Degrees(cfg=2, ring=2)),
        (8, 2, {}, Degrees(cfg=2, ulysses=4)),
        (5, 1, {}, Degrees(ring=5)),
        (4, 1, {"heads": None}, Degrees(ring=4)),
        (4, 2, {"splits_tokens": False}, Degrees(cfg=2)),
        (3, 2, {"splits_tokens": False}, Degrees(cfg=2)),
        (4, 1, {"splits_tokens": False}, Degrees()),
        (2, 1, {"look_ahead": 2}, Degrees(step=2)),
        (2, 2, {"look_ahead": 2}, Degrees(cfg=2)),
        (3, 2, {"look_ahead": 3}, Degrees(step=3)),
        (3, 2, {"look_ahead": 3, "splits_tokens": False}, Degrees(step=3)),
        (2, 1, {"batch": 4}, Degrees(data=2)),
        (2, 1, {"batch": 3}, Degrees(ring=2)),
        (2, 2, {"batch": 4}, Degrees(cfg=2)),
        (4, 2, {"batch": 2, "look_ahead": 2}, Degrees(data=2, cfg=2)),
        (8, 1, {"batch": 4, "look_ahead": 2}, Degrees(data=4, step=2)),
        (6, 1, {"batch": 4, "heads": None}, Degrees(data=2, ring=3)),
        (4, 1, {"batch": 2, "splits_tokens": False}, Degrees(data=2)),
        (4, 2, {"look_ahead": 2}, Degrees(cfg=2, step=2)),
        (8, 2, {"look_ahead": 2}, Degrees(cfg=2, step=2, ring=2)),
        (6, 1, {"look_ahead": 4}, Degrees(step=3, ring=2)),
        (4, 1, {"look_ahead": 4, "splits_tokens": False}, Degrees(step=4)),
        (1, 1, {"look_ahead": 2}, Degrees()),
        (4, 1, {"heads": None, "rows": 3}, Degrees(ring=3)),
        (4, 2, {"heads": None, "rows": 8}, Degrees(cfg=2, ring=2)),
    ],
)
def test_auto(world, conditions, changes, expected):
    assert auto_degrees(world, conditions=conditions, **{**KNOWN, **changes}) == expected


@pytest.mark.parametrize(
    ("degrees", "conditions", "splits_tokens", "expected"),
    [
        (Degrees(step=2), 2, True, Degrees(cfg=2)),
        (Degrees(step=2), 1, True, Degrees(ring=2)),
        (Degrees(step=2), 1, False, Degrees(step=2)),
        (Degrees(step=4), 2, True, Degrees(cfg=2, ring=2)),
        (Degrees(step=4), 2, False, Degrees(cfg=2, step=2)),
        (Degrees(step=3), 2, True, Degrees(ring=3)),
        (Degrees(cfg=2, step=2, ulysses=2), 2, True, Degrees(cfg=2, ring=2, ulysses=2)),
    ],
)
def test_a_call_alone_is_shared_by_all_where_that_can_be(degrees, conditions, splits_tokens, expected):
    assert one_by_one(degrees, conditions=conditions, splits_tokens=splits_tokens) == expected
    assert expected.world == degrees.world


def test_manual_degrees_are_taken_and_checked():
    strategy = StrategyConfig(mode="manual", cfg_degree=2, ring_degree=3)
    assert manual_degrees(strategy, 2) == Degrees(cfg=2, ring=3)
    plan_run(ParallelConfig(strategy=strategy), None, 6)
    with pytest.raises(ConfigError, match=r"multiply to 6 .* the pool has 4 workers"):
        plan_run(ParallelConfig(strategy=strategy), None, 4)
    with pytest.raises(ConfigError, match=r"cfg_degree is 2 but the guider evaluates 1 condition per call"):
        manual_degrees(strategy, 1)
    strategy = StrategyConfig(mode="manual", data_degree=2)
    assert manual_degrees(strategy, 1, batch=3) == Degrees(data=2)
    with pytest.raises(ConfigError, match=r"data_degree is 2 but the latent has a batch of 1; .* batch_size"):
        manual_degrees(strategy, 1, batch=1)


def guider(kind, patcher=None):
    patcher = patcher or model("flux")
    positive, negative = comfy_models.conditioning(1), comfy_models.conditioning(2)
    made = {
        "basic": lambda: custom.BasicGuider.execute(patcher, positive)[0],
        "cfg 3": lambda: custom.CFGGuider.execute(patcher, positive, negative, 3.0)[0],
        "cfg 1": lambda: custom.CFGGuider.execute(patcher, positive, negative, 1.0)[0],
        "dual": lambda: custom.DualCFGGuider.execute(patcher, positive, positive, negative, 3.0, 2.0, "regular")[0],
    }[kind]()
    made.conds = made.original_conds
    return made


def test_auto_splits_around_what_a_workflow_changes(monkeypatch):
    changed = model("flux").clone()
    changed.add_object_patch("diffusion_model.final_layer.forward", print)
    assert degrees_for(ParallelConfig(), 2, guider("basic", changed), NOISE) == Degrees(ring=2)
    monkeypatch.setattr(plans, "PLANS", (replace(plans.flux.PLAN, blocks=(), passed=()),))
    assert degrees_for(ParallelConfig(), 2, guider("cfg 3", changed), NOISE) == Degrees(cfg=2)
    with pytest.raises(Unsupported, match=r"with an object patch \(diffusion_model.final_layer.forward\), which may"):
        degrees_for(ParallelConfig(), 2, guider("basic", changed), NOISE)


def cards(monkeypatch, *memories, **other):
    """ComfyUI sees cards with these bytes of memory."""
    about = {"name": "A card", "major": 8, "is_integrated": 0, **other}
    found = [SimpleNamespace(total_memory=memory, **about) for memory in memories]
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(found))
    monkeypatch.setattr("torch.cuda.get_device_properties", found.__getitem__)


def test_a_comfyui_on_the_cpu_has_no_cuda_devices(monkeypatch):
    cards(monkeypatch, 8, 8)
    assert devices_of(ParallelConfig()) == ("cpu", "cpu")
    monkeypatch.setattr("comfy.model_management.cpu_mode", lambda: False)
    assert devices_of(ParallelConfig()) == ("cuda:0", "cuda:1")


def test_what_auto_leaves_out_is_said(monkeypatch):
    monkeypatch.setattr("comfy.model_management.cpu_mode", lambda: False)
    named = ParallelConfig(pool=PoolConfig(devices="cuda:0,cuda:1"))
    cards(monkeypatch, 8, 3)
    assert (devices_of(ParallelConfig()), devices_of(named)) == (("cuda:0",), ("cuda:0", "cuda:1"))
    with pytest.raises(NothingToShare, match=r"There is one device.* auto left out cuda:1 \(A card, which has"):
        choose(ParallelConfig(), 1, guider("basic"), None)
    assert remarks(named) == ()
    monkeypatch.setattr("torch.version.hip", "7.0")
    assert remarks(named) == (ROCM,)
    assert len(remarks(ParallelConfig())) == 1


@pytest.mark.parametrize(("kind", "name"), [("xpu", "xpu"), ("mps", "mps"), ("privateuseone", "DirectML")])
def test_devices_that_workers_cannot_use_are_one_device(kind, name, monkeypatch):
    reuse = StepReuseConfig(mode="look_ahead")
    monkeypatch.setattr("comfy.model_management.cpu_mode", lambda: False)
    monkeypatch.setattr("comfy.model_management.get_torch_device", lambda: torch.device(kind))
    for config in (ParallelConfig(), ParallelConfig(step_reuse=reuse)):
        assert devices_of(config) == (name,)
        with pytest.raises(NothingToShare, match=f"There is one device.* ComfyUI computes on {name} here"):
            choose(config, 1, guider("basic"), None)
    assert devices_of(ParallelConfig(pool=PoolConfig(devices="cpu*2"))) == ("cpu", "cpu")


def test_a_pytorch_without_distributed_has_one_device(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_available", lambda: False)
    assert devices_of(ParallelConfig()) == ("cpu",)
    with pytest.raises(NothingToShare, match=r"built without its distributed package"):
        choose(ParallelConfig(step_reuse=StepReuseConfig(mode="look_ahead")), 1, guider("basic"), None)
    with pytest.raises(ConfigError, match=r"devices names 2 workers; name one device or auto\. Workers cannot talk"):
        devices_of(ParallelConfig(pool=PoolConfig(devices="cpu*2")))


def test_windows_is_told_of_the_cards_that_comfyui_hides(monkeypatch):
    from comfy.cli_args import args

    one, two = (ParallelConfig(pool=PoolConfig(devices=devices)) for devices in ("auto", "cuda:0,cuda:1"))
    basic = guider("basic")

    def sentences():
        with pytest.raises(NothingToShare) as nothing:
            choose(one, len(devices_of(one)), basic, None)
        with pytest.raises(ConfigError, match="cuda:1") as refused:
            devices_of(two)
        return str(nothing.value), str(refused.value)

    cards(monkeypatch, 8)
    monkeypatch.setattr("comfy.model_management.cpu_mode", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not any("--cuda-device" in sentence for sentence in sentences())
    monkeypatch.setattr("sys.platform", "win32")
    assert all(sentence.endswith("unless it is started with --cuda-device all.") for sentence in sentences())
    monkeypatch.setattr(args, "cuda_device", "0")
    assert not any("--cuda-device" in sentence for sentence in sentences())
    monkeypatch.delattr(args, "cuda_device")  # a ComfyUI that calls the option otherwise
    assert all("--cuda-device" in sentence for sentence in sentences())


def test_a_model_without_a_plan_shares_its_cfg_or_is_refused():
    with without_plan(model("flux")):
        assert degrees_for(ParallelConfig(), 4, guider("cfg 3"), NOISE) == Degrees(cfg=2)
        with pytest.raises(Unsupported, match=r"no sequence-parallel plan for Unheard .*run on one device"):
            degrees_for(ParallelConfig(), 4, guider("basic"), NOISE)


def test_every_rank_is_once_on_every_axis():
    degrees = Degrees(data=2, cfg=2, ring=3, ulysses=2)
    assert axis_ranks("ulysses", degrees)[0] == (0, 1)
    assert axis_ranks("ring", degrees)[0] == (0, 2, 4)
    assert axis_ranks("cfg", degrees)[0] == (0, 6)
    assert axis_ranks("data", degrees)[0] == (0, 12)
    for axis in ("data", "cfg", "step", "ring", "ulysses"):
        assert sorted(rank for line in axis_ranks(axis, degrees) for rank in line) == list(range(24))


def test_conditions_are_shared_in_turns():
    cond = [{}]
    assert owners([cond, None, cond, cond], 2) == {0: 0, 2: 1, 3: 0}
    assert owners([None, cond], 2) == {1: 0}
    assert owners([cond, []], 2) == {0: 0}


@pytest.mark.parametrize(
    ("mode", "degrees", "warned"),
    [
        ("codec", Degrees(cfg=2), True),
        ("ratio", Degrees(cfg=2), True),
        ("codec", Degrees(cfg=2, ring=2), False),
        ("auto", Degrees(cfg=2), False),
        ("off", Degrees(cfg=2), False),
    ],
)
def test_compression_that_was_asked_for_and_does_nothing_is_said(mode, degrees, warned):
    config = ParallelConfig(compression=CompressionConfig(mode=mode))
    assert bool(unmet(config, degrees, guider("cfg 3"), NOISE)) == warned


@pytest.mark.parametrize(
    ("degrees", "shares"),
    [
        (Degrees(cfg=2), "share the conditions, which is as fast"),
        (Degrees(cfg=2, data=2), "share the conditions and the batch, which is as fast"),
        (Degrees(ring=3), "cannot be divided into groups for it, so they share the tokens."),
    ],
)
def test_what_workers_share_in_place_of_looking_ahead_is_said(degrees, shares):
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=2)
    (warning,) = limited(LookAhead(reuse, warnings=("One call per worker.",)), degrees, auto=True).warnings
    assert shares in warning
    with pytest.raises(Unsupported, match="use two workers or more, or unplug Step Reuse"):
        limited(LookAhead(reuse, warnings=("One call per worker.",)), Degrees(), auto=True)


@pytest.mark.parametrize(
    ("kind", "degrees", "warned"),
    [
        ("cfg 3", Degrees(step=2), True),
        ("cfg 3", Degrees(step=4), True),
        ("cfg 3", Degrees(step=3), False),
        ("cfg 3", Degrees(cfg=2, step=2), False),
        ("cfg 1", Degrees(step=2), False),
    ],
)
def test_step_degree_where_cfg_degree_would_do_is_said(kind, degrees, warned):
    warnings = unmet(ParallelConfig(), degrees, guider(kind), NOISE)
    assert [f"as fast here as step_degree {degrees.step}" in text for text in warnings] == [True] * warned
