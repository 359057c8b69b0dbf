"""Patches inside blocks and attention, split over real processes, against the same evaluation in one."""

import pytest
import torch
import torch.distributed as dist
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import WAY_OUT, Unsupported
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding import token_sharding
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.patches import OF_BLOCKS
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes
from tiny_diffusion import block_patches, needs_comfyui
from tiny_diffusion import cases as all_cases

pytestmark = needs_comfyui
SLOTS = batch_slots({"uuids": ["first", "second"], "cond_or_uncond": [0, 1]}, 2)
LIMIT = 1e-5
EACH_TOKEN_ALONE = {"flux, NAG"}
"""What is right without all tokens, too, as long as it is told which of the own ones are the picture's."""


def _own_only(sharding, given):
    """The negative control: the difference where patches see what the rank holds, infinite where that cannot run."""
    wrapped, token_sharding.with_all_tokens = token_sharding.with_all_tokens, lambda options, view, refuse: options
    try:
        return evaluate_split(sharding, SLOTS, **given)
    except (Unsupported, RuntimeError, AssertionError, ValueError, TypeError, KeyError):
        return None
    finally:
        token_sharding.with_all_tokens = wrapped


@torch.inference_mode()
def errors_of_patches(rank, world, ways):
    """{(case, way): relative error}; {case: (change by the patches, error of the worst rank without the wrapping)}."""
    by_degrees = {way[:2]: axes(rank, *way[:2]) for way in ways}
    errors, controls = {}, {}
    for name, (build, given) in block_patches.cases().items():
        module = build()
        plan = plan_for(module)
        for way in ways:
            attention = SequenceAttention(*by_degrees[way[:2]], way[2], RawWire(), Ledger())
            sharding = TokenSharding(module, plan, attention)
            whole = evaluate_whole(sharding, **given())
            errors[name, way] = difference(evaluate_split(sharding, SLOTS, **given()), whole)
        plain = {key: value for key, value in given().items() if key != "transformer_options"}
        changed = difference(evaluate_whole(sharding, **plain), whole)
        own = _own_only(sharding, given())
        worst = torch.tensor(float("inf") if own is None else difference(own, whole))
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        controls[name] = changed, float(worst)
    return errors, controls


@pytest.mark.parametrize(
    "ways",
    [
        [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather")],
        [(1, 3, "all_gather"), (3, 1, "all_gather")],
    ],
    ids=["2 ranks", "3 ranks"],
)
def test_patches_see_what_they_see_on_one_device(tmp_path, ways):
    world = ways[0][0] * ways[0][1]
    for errors, controls in launch(errors_of_patches, world, tmp_path, ways, timeout_s=600):
        assert set(controls) == set(block_patches.cases())
        assert {case: error for case, error in errors.items() if not error < LIMIT} == {}
        assert {case: changed for case, (changed, _) in controls.items() if not changed > 100 * LIMIT} == {}
        assert {case for case, (_, own_only) in controls.items() if not own_only > 100 * LIMIT} == EACH_TOKEN_ALONE


@torch.inference_mode()
def errors_of_cache(rank, world):
    """Relative errors of three calls with a cache of the references' keys, which the later ones leave out."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    module, given = block_patches.flux(**block_patches.FLUX2), block_patches.inputs("flux") | block_patches.REFERENCE
    sharding, calls = (
        TokenSharding(module, plan_for(module), attention),
        [given | {"timestep": given["timestep"] * t} for t in (1, 0.8, 0.6)],
    )
    whole, split = block_patches.kv_cache(), block_patches.kv_cache()
    wholes = [evaluate_whole(sharding, **call | whole) for call in calls]
    without = [evaluate_whole(sharding, **call) for call in calls]
    errors = [difference(evaluate_split(sharding, SLOTS, **call | split), out) for call, out in zip(calls, wholes)]
    return errors, [difference(out, cached) for out, cached in zip(without, wholes)]


@pytest.mark.parametrize("world", [2, 3])
def test_flux_kv_cache_is_exact(tmp_path, world):
    for errors, changes in launch(errors_of_cache, world, tmp_path):
        assert max(errors) < LIMIT
        assert changes[0] < LIMIT < 100 * LIMIT < min(changes[1:])


@torch.inference_mode()
def test_every_family_that_calls_such_patches_is_tried():
    called, tried = set(), set()

    def spy(kind):
        def patch(*args, **kwargs):
            called.add((plan_for(module).family, kind))
            first = args[0]
            if kind == "mlp_patch":
                return first
            return first["x"] if isinstance(first, dict) else first if kind == "attn1_output_patch" else {}

        return patch

    for build, given in all_cases().values():
        module = build()
        options = dict(given.get("transformer_options", {}))
        options["patches"] = options.get("patches", {}) | {kind: [spy(kind)] for kind in OF_BLOCKS}
        module(**given | {"transformer_options": options})
    for build, given in block_patches.cases().values():
        kinds = given()["transformer_options"]["patches"]
        tried |= {(plan_for(build()).family, kind) for kind in kinds}
    assert called == tried


def _refused(sharding, given):
    with pytest.raises(Unsupported) as refusal:
        evaluate_split(sharding, SLOTS, **given)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in sharding.module.modules())
    return str(refusal.value)


@torch.inference_mode()
def sentences(rank, world):
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    module = block_patches.flux()
    sharding = TokenSharding(module, plan_for(module), attention)

    def given(**kinds):
        return block_patches.inputs("flux") | block_patches.patched(**kinds)

    replaced = given()["transformer_options"] | {
        "patches_replace": {"other": {("double_block", 0): block_patches.mixed}}
    }
    found = {
        "kind": _refused(sharding, given(another_patch=block_patches.mixed)),
        "replaced": _refused(sharding, block_patches.inputs("flux") | {"transformer_options": replaced}),
        "fewer queries": _refused(sharding, given(attn1_patch=block_patches.merged)),
        "fewer tokens": _refused(sharding, given(attn1_output_patch=lambda out, options: out[:, 1:])),
    }
    kinds = {"input_block_patch": block_patches.mixed, "middle_patch": block_patches.mixed}  # nobody calls them here
    whole = evaluate_whole(sharding, **block_patches.inputs("flux"))
    return found, difference(evaluate_split(sharding, SLOTS, **given(**kinds)), whole)


def test_what_is_refused(tmp_path):
    expected = {
        "kind": "a patch of the kind another_patch",
        "replaced": "a patch of the kind other",
        "fewer queries": "a patch inside its blocks that makes 2 times 11 tokens of 2 times 22",
        "fewer tokens": "a patch inside its blocks that makes 2 times 21 tokens of 2 times 22",
    }
    for found, unused in launch(sentences, 2, tmp_path):
        assert found.keys() == expected.keys()
        for name, sentence in found.items():
            assert sentence.startswith(f"Flux cannot be split over ranks with {expected[name]}"), name
            assert sentence.endswith(f"; {WAY_OUT}")
        assert unused < LIMIT
