"""Every family with a plan: one evaluation split over real processes against the same evaluation in one."""

from dataclasses import replace

import pytest
import torch
from compact_parallel.runtime.attention.sequence import SequenceAttention
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.plan import Unsupported
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.shard import Sharding, batch_slots, self_check
from distributed import launch
from sequence_parts import axes
from tiny_diffusion import flux, inputs, needs_comfyui, sd3, wan

pytestmark = needs_comfyui
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)
LIMIT = 1e-5
FLUX2 = {
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "qkv_bias": False, "guidance_embed": False,
    "vec_in_dim": None, "txt_ids_dims": [2],
}  # fmt: skip
FEW_CASES = ("flux", "flux, mask", "sd3", "wan")


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    total = 7 + 15
    generator = torch.Generator().manual_seed(3)
    # Additive: ComfyUI's sub-quadratic attention, which the CPU gets, would add a bool mask as 0 and 1.
    mask = torch.randn(2, total, total, generator=generator)
    reference = torch.randn(2, 4, 4, 6, generator=generator)
    still = torch.randn(2, 4, 10, 6, generator=generator)
    to_video = {"clip_fea": torch.randn(2, 11, 1280, generator=generator)}
    return {
        "flux": (flux, inputs("flux")),
        "flux, one text token per rank or two": (flux, inputs("flux", text=4)),
        "flux, mask": (flux, inputs("flux") | {"attention_mask": mask}),
        "flux, reference latent": (flux, inputs("flux") | {"ref_latents": [reference], "ref_latents_method": "index"}),
        "flux, one modulation for all (Flux2)": (lambda: flux(**FLUX2), inputs("flux")),
        "sd3": (sd3, inputs("sd3")),
        "sd3, odd size": (sd3, inputs("sd3", text=5, height=8, width=14)),
        "wan": (wan, inputs("wan")),
        "wan, reference latent": (lambda: wan(in_dim_ref_conv=4), inputs("wan") | {"reference_latent": still}),
        "wan, image to video": (lambda: wan(model_type="i2v"), inputs("wan", height=6) | to_video),
    }


class OwnChunkOnly(SequenceAttention):
    """The negative control: no K or V from anybody else."""

    def __call__(self, func, q, k, v, heads, *, layout, tag, **kwargs):
        kwargs["mask"] = None
        return func(q, k, v, heads, **kwargs)


@torch.inference_mode()  # as ComfyUI samples
def family_errors(rank, world, ways):
    """{(case, ulysses and ring degree, exchange): relative error} of this rank; {case: the same without exchange}.

    Four ranks on a small machine take only the first case of each family, and the mask.
    """
    by_degrees = {(ulysses, ring): axes(rank, ulysses, ring) for ulysses, ring, _ in ways}
    errors, controls = {}, {}
    for name, (build, given) in cases().items():
        if world == 4 and name not in FEW_CASES:
            continue
        module = build()
        plan = plan_for(module)
        for way in ways:
            attention = SequenceAttention(*by_degrees[way[:2]], way[2], RawWire(), Ledger())
            errors[name, way] = self_check(Sharding(module, plan, attention), SLOTS, **given)
        alone = OwnChunkOnly(*by_degrees[ways[0][:2]], "all_gather", RawWire(), Ledger())
        controls[name] = self_check(Sharding(module, plan, alone), SLOTS, **given)
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
def test_split_equals_whole(tmp_path, ways):
    for errors, controls in launch(family_errors, ways[0][0] * ways[0][1], tmp_path, ways):
        assert len(controls) == (4 if ways[0][:2] == (2, 2) else 10)
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
    sharding = Sharding(model, plan_for(model), attention)
    reference = {"ref_latents": [torch.zeros(2, 4, 4, 6)], "ref_latents_method": "index_timestep_zero"}
    plain = flux(**FLUX2)
    sentences["timestep zero"] = refused(Sharding(plain, plan_for(plain), attention), inputs("flux") | reference)
    sentences["control"] = refused(sharding, inputs("flux") | {"control": {"input": [torch.zeros(2, 15, 72)]}})
    for name, options in {
        "patches_replace": {"patches_replace": {"dit": {("double_block", 1): lambda args, extra: args}}},
        "attn1_patch": {"patches": {"attn1_patch": [lambda q, k, v, **_: {}]}},
    }.items():
        sentences[name] = refused(sharding, inputs("flux") | {"transformer_options": options})
    sentences["too few tokens"] = refused(sharding, inputs("flux", text=1))
    sharding.plan = plan_for(sd3())
    with pytest.raises(Unsupported) as refusal, sharding:
        pass
    sentences["wrong plan"] = str(refusal.value)
    sharding.plan = plan_for(model)
    with pytest.raises(Unsupported) as refusal, sharding:
        model(**inputs("flux"))
    sentences["override not given"] = str(refusal.value)

    moving = wan()
    video = Sharding(moving, plan_for(moving), attention)
    per_frame = inputs("wan") | {"timestep": torch.rand(2, 3)}
    sentences["per frame"] = refused(video, per_frame)

    # The negative control of the guards: without them these two run, and are wrong.
    unguarded = [
        self_check(Sharding(module, replace(plan_for(module), guards=()), attention), SLOTS, **given)
        for module, given in ((plain, inputs("flux") | reference), (moving, per_frame))
    ]
    harmless = {"patches": {"post_input": [lambda args: args], "attn1_patch": []}, "patches_replace": {"dit": {}}}
    after = self_check(sharding, SLOTS, transformer_options=harmless, **inputs("flux"))
    previous_calls = []

    def previous(func, *args, **kwargs):
        previous_calls.append(func.__name__)
        return func(*args, **kwargs)

    options = {"optimized_attention_override": previous}
    kept = self_check(sharding, SLOTS, transformer_options=options, **inputs("flux"))
    warnings = attention.ledger.to_json()["warnings"]
    compressed = {}
    for exchange in ("all_gather", "ring"):
        ledger = Ledger()
        config = CompressionConfig(mode="codec", codec="int8")
        coded = SequenceAttention(ulysses, ring, exchange, make_wire(config, ledger, 3), ledger)
        compressed[exchange] = [
            self_check(Sharding(model, plan_for(model), coded), SLOTS, **inputs("flux")) for _ in range(3)
        ]
    hooks = hooks_left(model) + hooks_left(moving)
    return sentences, unguarded, after, kept, len(previous_calls), warnings, compressed, hooks


def test_what_is_refused_and_what_is_not(tmp_path):
    expected = {
        "timestep zero": "Flux cannot be split over ranks with reference latents of the method index_timestep_zero",
        "control": "Flux cannot be split over ranks with a ControlNet",
        "patches_replace": "with a patch of its blocks or attention",
        "attn1_patch": "with a patch of its blocks or attention",
        "too few tokens": "with 1 text tokens on 2 ranks",
        "wrong plan": "SD3 cannot be split over ranks with no joint_blocks.first in the model",
        "override not given": "with an attention that does not go through ComfyUI's attention functions",
        "per frame": "Wan cannot be split over ranks with a time step per frame",
    }
    for outcome in launch(refusals_and_compression, 2, tmp_path):
        sentences, unguarded, after, kept, previous_calls, warnings, compressed, hooks = outcome
        assert min(unguarded) > 100 * LIMIT
        assert sentences.keys() == expected.keys()
        for name, sentence in sentences.items():
            assert expected[name] in sentence
            assert sentence.endswith("; set ulysses_degree and ring_degree to 1 (cfg_degree still works).")
        assert after < LIMIT
        assert kept < LIMIT
        assert previous_calls == 2 * 4
        assert [warning.partition(".")[0] for warning in warnings] == ["A patch of this workflow overrides attention"]
        assert hooks == 0
        for errors in compressed.values():
            assert LIMIT < errors[0] < 0.02
            assert max(errors[1:]) < errors[0] / 100  # the inputs are the same: what was lost follows
        assert compressed["ring"] == pytest.approx(compressed["all_gather"], rel=0.1)
