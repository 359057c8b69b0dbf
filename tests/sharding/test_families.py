"""Every family with a plan: one evaluation split over real processes against the same evaluation in one."""

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import WAY_OUT
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.plan import Unsupported
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from device import EXACT
from distributed import launch
from evaluating import evaluate_split, evaluate_whole, split_error
from sequence_parts import axes, batch_of
from tiny_diffusion import cases, inputs, needs_comfyui
from tiny_diffusion.flux import flux
from tiny_diffusion.sd3 import sd3

pytestmark = needs_comfyui
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)
LIMIT = EXACT
FEW_CASES = ("flux", "flux, mask", "sd3", "wan")


class OwnChunkOnly(SequenceAttention):
    """The negative control: no K or V from anybody else."""

    def __call__(self, func, q, k, v, heads, *, layout, tag, **kwargs):
        kwargs["mask"] = None
        return func(q, k, v, heads, **kwargs)

    def gather_tokens(self, x, layout, dim, tag):
        gathered = super().gather_tokens(x, layout, dim, tag)
        if tag.name in ("all tokens", "halo"):  # what a module within the blocks is given of the others
            ((first, last),) = layout.ranges(self.shard_index)
            gathered = torch.zeros_like(gathered).slice_scatter(x, dim, first, last)
        return gathered


@torch.inference_mode()  # as ComfyUI samples
def family_errors(rank, world, ways, full):
    """{(case, ulysses and ring degree, exchange): relative error} of this rank; {case: the same without exchange}.

    Four ranks on a small machine take only the first families, and the mask. Three take each case in one of the ways,
    in turn, unless `full`: two take it in all.
    """
    by_degrees = {(ulysses, ring): axes(rank, ulysses, ring) for ulysses, ring, _ in ways}
    errors, controls = {}, {}
    for number, (name, (build, given)) in enumerate(cases().items()):
        if world == 4 and name not in FEW_CASES:
            continue
        module = build()
        plan = plan_for(module)
        alone = OwnChunkOnly(*by_degrees[ways[0][:2]], "all_gather", RawWire(), Ledger())
        control = TokenSharding(module, plan, alone)
        whole = evaluate_whole(control, **given)
        controls[name] = difference(evaluate_split(control, SLOTS[: batch_of(given)], **given), whole)
        for way in ways if full or world != 3 else [ways[number % len(ways)]]:
            attention = SequenceAttention(*by_degrees[way[:2]], way[2], RawWire(), Ledger())
            split = evaluate_split(TokenSharding(module, plan, attention), SLOTS[: batch_of(given)], **given)
            errors[name, way] = difference(split, whole)
    return errors, controls


@pytest.mark.parametrize(
    "ways",
    [
        [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather")],
        [(1, 3, "all_gather"), (1, 3, "ring"), (3, 1, "all_gather")],
        [(2, 2, "all_gather"), (2, 2, "ring")],
    ],
    ids=["2 ranks", "3 ranks", "4 ranks"],
)
def test_split_equals_whole(tmp_path, ways, full):
    for errors, controls in launch(family_errors, ways[0][0] * ways[0][1], tmp_path, ways, full, timeout_s=600):
        assert {case for case, _ in errors} == set(controls)
        assert {way for _, way in errors} == set(ways)
        assert set(controls) == set(FEW_CASES if ways[0][:2] == (2, 2) else cases())
        assert {case: error for case, error in errors.items() if not error < LIMIT} == {}
        assert {case: error for case, error in controls.items() if not error > 100 * LIMIT} == {}


def refused(sharding, given):
    """The sentence with which the job is refused."""
    given = dict(given)
    options = {"optimized_attention_override": sharding.attention_override(), **given.pop("transformer_options", {})}
    with pytest.raises(Unsupported) as refusal, sharding:
        sharding.begin_forward(SLOTS)
        sharding.module(transformer_options=options, **given)
    return str(refusal.value)


def hooks_left(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@torch.inference_mode()
def refusals_and_compression(rank, world):
    ulysses, ring = axes(rank, 1, 2)
    attention = SequenceAttention(ulysses, ring, "all_gather", RawWire(), Ledger())
    sentences = {}

    model = flux()
    sharding = TokenSharding(model, plan_for(model), attention)
    options = {"patches": {"another_patch": [lambda q, k, v, **_: {}]}}
    sentences["another_patch"] = refused(sharding, inputs("flux") | {"transformer_options": options})
    sharding.plan = plan_for(sd3())
    with pytest.raises(Unsupported) as refusal, sharding:
        pass
    sentences["wrong plan"] = str(refusal.value)
    sharding.plan = plan_for(model)
    with pytest.raises(Unsupported) as refusal, sharding:
        model(**inputs("flux"))
    sentences["override not given"] = str(refusal.value)

    harmless = {"patches": {"post_input": [lambda args: args], "attn1_patch": []}, "patches_replace": {"dit": {}}}
    after = split_error(sharding, SLOTS, transformer_options=harmless, **inputs("flux"))
    previous_calls = []

    def previous(func, *args, **kwargs):
        previous_calls.append(func.__name__)
        return func(*args, **kwargs)

    options = {"optimized_attention_override": previous}
    kept = split_error(sharding, SLOTS, transformer_options=options, **inputs("flux"))
    warnings = attention.ledger.to_json()["warnings"]
    compressed = {}
    for exchange in ("all_gather", "ring"):
        ledger = Ledger()
        config = CompressionConfig(mode="codec", codec="int8")
        coded = SequenceAttention(ulysses, ring, exchange, make_wire(config, ledger, 3), ledger)
        compressed[exchange] = [
            split_error(TokenSharding(model, plan_for(model), coded), SLOTS, **inputs("flux")) for _ in range(3)
        ]
    return sentences, after, kept, len(previous_calls), warnings, compressed, hooks_left(model)


def test_what_is_refused_and_what_is_not(tmp_path):
    expected = {
        "another_patch": "Flux cannot be split over ranks with a patch of the kind another_patch",
        "wrong plan": "SD3 cannot be split over ranks with no joint_blocks.first in the model",
        "override not given": "with an attention that does not go through the attention functions of ComfyUI ",
    }
    for outcome in launch(refusals_and_compression, 2, tmp_path):
        sentences, after, kept, previous_calls, warnings, compressed, hooks = outcome
        assert sentences.keys() == expected.keys()
        for name, sentence in sentences.items():
            assert expected[name] in sentence
            assert sentence.endswith(f"; {WAY_OUT}")
        assert after < LIMIT
        assert kept < LIMIT
        assert previous_calls == 2 * 4
        assert [warning.partition(".")[0] for warning in warnings] == ["A patch of this workflow overrides attention"]
        assert hooks == 0
        for errors in compressed.values():
            assert LIMIT < errors[0] < 0.02
            assert max(errors[1:]) < errors[0] / 100  # the inputs are the same: what was lost follows
        assert compressed["ring"] == pytest.approx(compressed["all_gather"], rel=0.1, abs=LIMIT / 10)
