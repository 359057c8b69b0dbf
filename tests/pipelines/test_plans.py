"""Every transformer of diffusers with a plan: an evaluation split over real processes against the same one in one."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.parallel.mesh import Degrees, Mesh
from compact_parallel.runtime.pipelines.denoiser_sharding import DenoiserTokens
from compact_parallel.runtime.pipelines.plans import PLANS, plan_for
from compact_parallel.runtime.pipelines.sequence import split_denoiser
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from device import EXACT
from distributed import launch
from tiny_denoisers import DENOISERS, FEW_TOKENS, IMPORTS
from torch.nn import functional

SLOTS = (("negative", 0), ("positive", 0))
LIMIT = EXACT
TWO = [Degrees(ulysses=2), Degrees(ring=2), Degrees(ring=2, ring_exchange="ring")]
SOME = ("flux", "sd3.5", "latte", "qwen, mask")
ORIGINAL = functional.scaled_dot_product_attention


class OwnChunkOnly(SequenceAttention):
    """The negative control: no K or V from anybody else."""

    def __call__(self, func, q, k, v, heads, *, layout, tag, **kwargs):
        return func(q, k, v, heads, **{"scale": None, **kwargs, "mask": None})


def whole(module, given):
    return module(**given).sample


def split(sharding, given, slots=SLOTS):
    sharding.begin_forward(slots)
    return whole(sharding.module, given)


def alone(module, axes):
    """The sharding of the negative control."""
    attention = OwnChunkOnly(axes["ulysses"], axes["ring"], "all_gather", RawWire(), Ledger())
    return DenoiserTokens(module, plan_for(module), attention)


def hooks_left(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@torch.inference_mode()
def errors(rank, world, ways, names):
    """Of this rank: {(case, way): relative error}, {(case, way): hash of the output}, {case: error of the control}."""
    mesh, found, bits, controls = Mesh(rank, world), {}, {}, {}
    for name in names:
        build, inputs = {**DENOISERS, **FEW_TOKENS}[name]
        module, given = build(), inputs()
        expected = whole(module, given)
        for way, degrees in enumerate(ways):
            with split_denoiser(module, degrees, mesh.axes(degrees), RawWire(), Ledger()) as sharding:
                outputs = [split(sharding, given) for _ in range(2)]
            found[name, way] = max(difference(output, expected) for output in outputs)
            bits[name, way] = hashlib.sha256(outputs[0].contiguous().numpy().tobytes()).hexdigest()
        assert hooks_left(module) == 0
        assert functional.scaled_dot_product_attention is ORIGINAL
        assert torch.equal(whole(module, given), expected)
        with alone(module, mesh.axes(ways[0])) as control:
            controls[name] = difference(split(control, given), expected)
    return found, bits, controls


@pytest.mark.parametrize(
    ("ways", "names"),
    [
        (TWO, tuple(DENOISERS)),
        ([Degrees(ring=3), Degrees(ring=3, ring_exchange="ring")], (*SOME, *FEW_TOKENS)),
        ([Degrees(ulysses=2, ring=2), Degrees(ulysses=4)], SOME),
    ],
    ids=["2 ranks", "3 ranks", "4 ranks"],
)
def test_split_equals_whole(tmp_path, ways, names):
    outcomes = launch(errors, ways[0].world, tmp_path, ways, names, imports=IMPORTS)
    for found, bits, controls in outcomes:
        assert len(found) == len(ways) * len(names)
        assert {case: error for case, error in found.items() if not error < LIMIT} == {}
        assert {case: error for case, error in controls.items() if not error > 100 * LIMIT} == {}
        assert bits == outcomes[0][1]


@torch.inference_mode()
def missing(rank, world):
    """{(family, number of an action): in each case the error without that action, or the name of the exception}."""
    axes, found = Mesh(rank, world).axes(TWO[0]), {}
    for build, inputs in DENOISERS.values():
        module, given = build(), inputs()
        plan, expected = plan_for(module), whole(module, given)
        for number in range(len(plan.actions)):
            actions = (*plan.actions[:number], *plan.actions[number + 1 :])
            attention = SequenceAttention(axes["ulysses"], axes["ring"], "all_gather", RawWire(), Ledger())
            try:
                with DenoiserTokens(module, replace(plan, actions=actions), attention) as sharding:
                    came = difference(split(sharding, given), expected)
            except (ValueError, RuntimeError) as error:
                came = type(error).__name__
            assert functional.scaled_dot_product_attention is ORIGINAL
            found.setdefault((plan.family, number), []).append(came)
    return found


def test_no_action_can_be_left_out(tmp_path):
    for found in launch(missing, 2, tmp_path, imports=IMPORTS):
        assert set(found) == {(plan.family, number) for plan in PLANS for number in range(len(plan.actions))}
        unseen = [key for key, came in found.items() if not any(isinstance(e, str) or e > 100 * LIMIT for e in came)]
        assert unseen == []


def test_every_plan_has_a_case():
    assert {plan_for(build()).family for build, _ in DENOISERS.values()} == {plan.family for plan in PLANS}
