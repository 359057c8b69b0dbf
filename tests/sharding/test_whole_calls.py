"""Forwards that every rank runs whole: too few rows, and what a guard refuses where nobody asked for the split."""

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_control, split_over_ranks
from compact_parallel.runtime.sharding.plans import plan_for
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes, batch_of
from sharding.test_guards import TRIPPED
from tiny_diffusion import cascade, controlnets, needs_comfyui, of_every_family, presence, randn, unet

pytestmark = needs_comfyui
LIMIT = 1e-5


class Attention(SequenceAttention):
    """Over all ranks, with a ledger of its own."""

    def __init__(self, degrees):
        super().__init__(*degrees, "all_gather", RawWire(), Ledger())

    def said(self):
        """What was warned of, and the bytes that were sent."""
        return self.ledger.to_json()["warnings"], self.ledger.totals()[0]


def compared(module, given, degrees, asked=True):
    """(relative error, warnings, bytes sent) of one forward; `given` makes its arguments."""
    attention = Attention(degrees)
    sharding = split_over_ranks(module, attention)
    sharding.asked = asked
    slots = batch_slots({"uuids": ["first", "second"]}, 2)[: batch_of(given())]
    whole = evaluate_whole(sharding, **given())
    return difference(evaluate_split(sharding, slots, **given()), whole), *attention.said()


def few_rows():
    """{what: (module, arguments, rows that the warning names, or 0)}."""
    residual = {"control": {"output": [torch.ones(2, 64, 6, 3)]}}
    resized = {"control": {"input": [*[None] * 5, randn(2, 24, 6, 5)]}}
    return {
        "few": (unet.unet(), lambda: unet.unet_inputs(height=4), 4),
        "enough": (unet.unet(), lambda: unet.unet_inputs(height=5), 0),
        "few, stage b": (cascade.stage_b(), lambda: cascade.stage_b_inputs(height=16), 16),
        "odd, stage b": (cascade.stage_b(), lambda: cascade.stage_b_inputs(height=40), 40),
        "residual that does not fit": (unet.unet(), lambda: unet.unet_inputs() | _anew(residual), 0),
        "residual that is resized": (cascade.stage_c(), lambda: cascade.stage_c_inputs() | _anew(resized), 0),
    }


def _anew(control):
    return {"control": {place: list(residuals) for place, residuals in control["control"].items()}}


@torch.inference_mode()
def rows(rank, world):
    """{what: (error, warnings, bytes sent)}, how often a patch was called and on how many rows, and the ControlNet."""
    degrees, found = axes(rank, 1, world), {}
    for what, (module, given, _) in few_rows().items():
        found[what] = compared(module, given, degrees)
    resized = few_rows()["residual that is resized"]
    plain = resized[0](**cascade.stage_c_inputs())
    changed = difference(plain, resized[0](**resized[1]()))

    seen = []

    def patch(h, options):
        seen.append(tuple(h.shape))
        return h

    options = {"transformer_options": {"patches": {"input_block_patch": [patch]}}}
    patched = compared(unet.unet(), lambda: unet.unet_inputs(height=4) | options, degrees)
    attention, control = Attention(degrees), controlnets.unet()
    given = controlnets.unet_inputs(height=4)
    whole = control(**given)
    with split_control(control, attention) as sharding:
        sharding.keeps_local = True
        sharding.begin_forward(batch_slots({"uuids": ["first", "second"]}, 2))
        split = control(**given)
    found["ControlNet"] = (
        max(difference(x, y) for place in whole for x, y in zip(split[place], whole[place])),
        *(attention.said()),
    )
    return found, changed, patched[0], seen


def test_too_few_rows_run_whole(tmp_path):
    for found, changed, patched, seen in launch(rows, 2, tmp_path):
        assert {what: error for what, (error, *_) in found.items() if not error < LIMIT} == {}
        assert changed > 100 * LIMIT
        expected = {what: height for what, (*_, height) in few_rows().items()} | {"ControlNet": 4}
        for what, (_, warnings, sent) in found.items():
            assert (not warnings, sent > 0) == (not expected[what], not expected[what]), what
            for warning in warnings:
                assert f"split over ranks with a latent of {expected[what]} rows on 2 workers: every worker" in warning
        assert patched < LIMIT
        assert len(seen) % 2 == 0 and seen[: len(seen) // 2] == seen[len(seen) // 2 :]  # stock, then split


def refused_by_a_guard():
    """{what: (module, arguments)}: a patch that nobody knows for each family, and what families' own guards trip."""
    found = {}
    for what, (make, _) in TRIPPED.items():
        found[what] = make()
    patches = {"another_patch": [lambda *args, **kwargs: {}]}
    rows = {"unet": (unet.unet, unet.unet_inputs()), "cascade": (cascade.stage_c, cascade.stage_c_inputs())}
    for module, given in (*of_every_family().values(), *((build(), given) for build, given in rows.values())):
        options = given.get("transformer_options", {})
        with_patch = given | {"transformer_options": options | {"patches": options.get("patches", {}) | patches}}
        found[plan_for(module).family] = module, with_patch
    del found["ar_state"], found["attention_mask"]  # a state and a mask that the forward itself cannot do with
    found["text alone"] = cascade.stage_c(self_attn=False), cascade.stage_c_inputs()
    return found


@torch.inference_mode()
def guarded(rank, world):
    """{what: (error, warnings, bytes sent)}."""
    degrees = axes(rank, 1, world)
    return {
        what: compared(module, lambda given=given: given, degrees, asked=False)
        for what, (module, given) in refused_by_a_guard().items()
    }


def test_what_a_guard_refuses_runs_whole_where_nobody_asked_for_the_split(tmp_path):
    for found in launch(guarded, 2, tmp_path, timeout_s=600):
        assert presence.families() <= set(found)
        for what, (error, warnings, sent) in found.items():
            assert (error, sent) == (0, 0), what
            (warning,) = warnings
            assert warning.endswith(": every worker ran some calls of the model whole, which saves no time.")


@pytest.mark.parametrize("family", ("Flux", "Chroma Radiance"))
def test_residuals_are_kept_apart_only_for_a_model_that_takes_them(family):
    module, _ = of_every_family()[family]
    assert split_over_ranks(module, None).cuts_control == (family == "Flux")
