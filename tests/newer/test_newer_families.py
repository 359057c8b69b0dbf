"""Families that came to ComfyUI after 0.30: what their plans need, and their own classes where ComfyUI has them."""

import importlib
import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.plan import DivideHeads, Unsplit, Unsupported
from compact_parallel.runtime.sharding.plans import plan_for, qwen21, wan_animate2
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from distributed import RankFailed, launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes
from tiny_diffusion import cases, needs_comfyui, presence, randn
from tiny_diffusion.base import use_comfyui, with_weights

pytestmark = needs_comfyui
NAME = "comfy.ldm.fixture_newer"
LIMIT = 1e-5
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)


def load():
    """The models of unknown_blocks.py as if they were ComfyUI's, with a plan for each."""
    use_comfyui()
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("unknown_blocks.py"))
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    models = sys.modules[NAME]
    actions = [
        replace(each, module=NAME) if isinstance(each, DivideHeads) else each for each in wan_animate2.PLAN.actions
    ]
    return models, qwen21.PLAN, replace(wan_animate2.PLAN, actions=tuple(actions))


class OwnShareOnly(SequenceAttention):
    """The negative control: what other ranks have done does not arrive."""

    def __call__(self, func, q, k, v, heads, *, layout, tag, **kwargs):
        return func(q, k, v, heads, **kwargs)

    def gather_tokens(self, x, layout, dim, tag):
        ((first, last),) = layout.ranges(self.shard_index)
        return torch.zeros_like(super().gather_tokens(x, layout, dim, tag)).slice_scatter(x, dim, first, last)


def picture(tokens):
    return {"x": randn(2, tokens, 4), "context": randn(2, 7, 20)}


def error_of(plan, make, given, attention):
    """The larger one of a first and a second forward."""
    whole = evaluate_whole(TokenSharding(with_weights(make()), plan, None), **given)
    with TokenSharding(with_weights(make()), plan, attention) as sharding:
        return max(difference(evaluate_split(sharding, SLOTS, **given), whole) for _ in range(2))


@torch.inference_mode()
def errors_of(rank, world):
    """{(case, way): error}, those of the control too."""
    models, prefixed, lockstep = load()
    rows, columns = axes(rank, 1, world), axes(rank, world, 1)
    video = {"x": randn(2, 15, 4), "driving": randn(2, 15, 4, seed=8), "context": randn(2, 7, 20)}
    cases = {
        "prefixed": (prefixed, models.Prefixed, picture(11)),
        "prefixed, few": (prefixed, models.Prefixed, picture(2)),
        "prefixed, kept": (prefixed, lambda: models.Prefixed(True), picture(11)),
        "prefixed, kept, as many": (prefixed, lambda: models.Prefixed(True), picture(7)),
        "prefixed, kept, few": (prefixed, lambda: models.Prefixed(True), picture(2)),
        "lockstep": (lockstep, models.Lockstep, video),
    }
    found = {}
    for name, case in cases.items():
        found[name, "all_gather"] = error_of(*case, SequenceAttention(*rows, "all_gather", RawWire(), Ledger()))
        found[name, "ring"] = error_of(*case, SequenceAttention(*rows, "ring", RawWire(), Ledger()))
        found[name, "ulysses"] = error_of(*case, SequenceAttention(*columns, "all_gather", RawWire(), Ledger()))
        found[name, "own share only"] = error_of(*case, OwnShareOnly(*rows, "all_gather", RawWire(), Ledger()))
    return found


@pytest.mark.parametrize("world", [2, 3])
def test_what_newer_blocks_need_is_exact(tmp_path, world):
    for errors in launch(errors_of, world, tmp_path, timeout_s=300):
        controls = {case: errors.pop(case) for case in list(errors) if case[1] == "own share only"}
        assert {case: error for case, error in errors.items() if not error < LIMIT} == {}
        assert {case: error for case, error in controls.items() if not error > 100 * LIMIT} == {}
        assert (len(errors), len(controls)) == (6 * 3, 6)


@torch.inference_mode()
def unaware(rank, world):
    """A plan that takes the blocks' call for the text for one of the picture."""
    models, prefixed, _ = load()
    plan = replace(prefixed, actions=tuple(each for each in prefixed.actions if not isinstance(each, Unsplit)))
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    assert error_of(plan, lambda: models.Prefixed(True), picture(11), attention) < LIMIT


def test_a_plan_must_know_the_calls_for_the_text(tmp_path):
    with pytest.raises(RankFailed):
        launch(unaware, 2, tmp_path)


def test_a_patch_that_would_see_the_text_in_front_is_refused():
    models, prefixed, _ = load()
    options = {"patches": {"attn1_patch": [lambda q, k, v, **_: {"q": q, "k": k, "v": v}]}}
    with TokenSharding(with_weights(models.Prefixed()), prefixed, None) as sharding:
        sharding.begin_forward(SLOTS)
        with pytest.raises(
            Unsupported, match=r"Qwen-Image 2.1 cannot be split over ranks with a patch in front of its"
        ):
            sharding.module(transformer_options=options, **picture(11))


@pytest.mark.parametrize("path", presence.FAMILIES.values(), ids=presence.FAMILIES)
def test_a_newer_family_has_a_plan_whether_comfyui_has_it_or_not(path):
    """Where ComfyUI has it, tests/sharding/test_families.py splits it; else it says so here."""
    use_comfyui()
    module, _, name = path.rpartition(".")
    family = plan_for(type(name, (torch.nn.Module,), {"__module__": module})()).family
    assert presence.FAMILIES[family] == path
    if path in presence.absent():
        with pytest.raises(ModuleNotFoundError, match=re.escape(module.rpartition(".")[0])):
            importlib.import_module(module)
    split = {plan_for(build()).family for build, _ in cases().values()}
    assert (family in split) == (family in presence.families()) == (path not in presence.absent())
