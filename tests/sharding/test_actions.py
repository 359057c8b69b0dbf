"""The negative controls of the plans: without any one of its actions a plan is wrong or fails, and every family refuses
what it does not know, which would be wrong."""

import dataclasses
import re
from dataclasses import replace

import torch
import torch.distributed as dist
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.plan import (
    ControlResiduals,
    DivideHeads,
    DivideSequences,
    DivideTokens,
    Plan,
)
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes, batch_of
from tiny_diffusion import cases, needs_comfyui, presence

pytestmark = needs_comfyui
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)
ENOUGH = 1e-3


class Stated(Plan):
    """A plan of which nothing is derived: its actions are all there are."""

    @property
    def all_actions(self):
        return self.actions


def stated(plan, **changes):
    """The plan with its derived actions stated, and changed."""
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return Stated(**fields | {"actions": plan.all_actions} | changes)


def error_of(module, plan, attention, given, whole):
    """||sharded - whole|| / ||whole|| of the rank that is most wrong, infinite where the sharded one cannot run."""
    try:
        error = difference(
            evaluate_split(TokenSharding(module, plan, attention), SLOTS[: batch_of(given)], **given), whole
        )
    except (Unsupported, RuntimeError, TypeError, ValueError, AssertionError, IndexError):
        error = float("inf")
    most = torch.tensor(error).nan_to_num(nan=float("inf"), posinf=float("inf"))
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return float(most)


def still_known(plan, left_out):
    """What the plan knows, with what the part left out of it named: that it goes wrong counts, not that it refuses."""
    names = [getattr(left_out, "arg", ""), getattr(left_out, "until", "")]
    names += [name for name, *_ in getattr(left_out, "tokens", ())]
    path = re.sub(r"\b(first|last)\b", "*", left_out.path)
    return tuple(replace(each, names=(*each.names, *names)) if each.path == path else each for each in plan.passed)


@torch.inference_mode()
def without_one_action(rank, world):
    """{family: {action: the largest difference over the cases when it is left out}}."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    found = {}
    for build, given in cases().values():
        module = build()
        plan = plan_for(module)
        whole = evaluate_whole(TokenSharding(module, plan, attention), **given)
        differences = found.setdefault(plan.family, {})
        for index, action in enumerate(plan.all_actions):
            # Those that divide work: test_varlen_attention, test_newer_families.
            if isinstance(action, DivideSequences | DivideHeads | DivideTokens):
                continue
            others = plan.all_actions[:index] + plan.all_actions[index + 1 :]
            fewer = stated(plan, actions=others, passed=still_known(plan, action))
            name = f"{index} {type(action).__name__} {action.path} {getattr(action, 'arg', '')}"
            if differences.get(name, 0.0) <= ENOUGH:
                differences[name] = max(differences.get(name, 0.0), error_of(module, fewer, attention, given, whole))
        for index, blocks in enumerate(plan.blocks):
            others = plan.blocks[:index] + plan.blocks[index + 1 :]
            fewer = stated(plan, blocks=others, passed=still_known(plan, blocks))
            name = f"{index} Blocks {blocks.path}"
            if differences.get(name, 0.0) <= ENOUGH:
                differences[name] = max(differences.get(name, 0.0), error_of(module, fewer, attention, given, whole))
    return found


def test_no_action_of_a_plan_can_be_left_out(tmp_path):
    for found in launch(without_one_action, 2, tmp_path, timeout_s=600):
        assert set(found) == presence.families()
        assert {
            (family, action): error
            for family, differences in found.items()
            for action, error in differences.items()
            if not error > ENOUGH
        } == {}


def not_known(family, plan, given):
    """{what: arguments that make it}: what this plan has no way to split."""
    options = given.get("transformer_options", {})
    patches = {"another_patch": [lambda *args, **kwargs: {}]}
    found = {"kind": {"transformer_options": options | {"patches": patches}}}
    holds_all = any(isinstance(action, DivideHeads) for action in plan.actions)
    if not (plan.blocks or holds_all):
        replaced = {"dit": {("double_block", 0): lambda args, extra: args}}
        found["between"] = {"transformer_options": options | {"patches_replace": replaced}}
    if not any(isinstance(action, ControlResiduals) for action in plan.actions):
        found["control"] = {"control": {"input": [torch.zeros(2, 1, 1)]}}
    return found


@torch.inference_mode()
def what_is_refused(rank, world):
    """{(family, what): the sentence of the refusal, or None}."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    found = {}
    for build, given in cases().values():
        module = build()
        plan = plan_for(module)
        for what, arguments in not_known(plan.family, plan, given).items():
            if (plan.family, what) in found:
                continue
            sharding, given_now = TokenSharding(module, plan, attention), given | arguments
            options = given_now.pop("transformer_options", {})
            options = options | {"optimized_attention_override": sharding.attention_override()}
            found[plan.family, what] = None
            with sharding:
                sharding.begin_forward(SLOTS[: batch_of(given)])
                try:
                    module(transformer_options=options, **given_now)
                except Unsupported as refusal:
                    found[plan.family, what] = str(refusal)
                except TypeError as error:
                    assert "control" in str(error) and what == "control"
                    found[plan.family, what] = (
                        f"{plan.family} cannot be split over ranks with a ControlNet; its model has none"
                    )
    return found


EXPECTED = {
    "kind": "a patch of the kind another_patch",
    "between": "a patch between its blocks",
    "control": "a ControlNet",
}


def test_every_family_refuses_what_it_does_not_know(tmp_path):
    for found in launch(what_is_refused, 2, tmp_path, timeout_s=600):
        assert {family for family, _ in found} == presence.families()
        for (family, what), sentence in found.items():
            assert sentence and sentence.startswith(f"{family} cannot be split over ranks with {EXPECTED[what]}"), what
