"""What single families refuse: every guard that is theirs alone is tripped, and says what cannot be split."""

import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.plan import Unsupported
from compact_parallel.runtime.sharding.plans import PLANS, guards, plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes
from tiny_diffusion import cases, inputs, needs_comfyui
from tiny_diffusion.stable_audio import stable_audio, stable_audio_inputs
from tiny_diffusion.wan import causal

pytestmark = needs_comfyui
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)
# test_actions.py trips the first three for every family, tests/newer/test_newer_families.py the last one.
SHARED = (guards.PATCHES, guards.INSIDE, guards.CONTROL, guards.IN_FRONT_OF_ATTENTION)


def small_stable_audio(**attention):
    """Stable Audio Open Small's attention takes away what all tokens have in common."""
    return stable_audio(attn_kwargs=attention), stable_audio_inputs()


def conformer():
    """Layers with convolutions, which no file that ComfyUI knows has."""
    module = stable_audio()
    module.transformer.layers[0].conformer = torch.nn.Identity()
    return module, stable_audio_inputs()


def block_by_block():
    """SamplerARVideo keeps what the model remembers of the blocks before."""
    return causal(), inputs("wan") | {"transformer_options": {"ar_state": {}}}


def masked_sound():
    """A mask of ACE-Step's sound."""
    build, given = next(case for name, case in cases().items() if name == "ace step 1")
    return build(), given | {"attention_mask": torch.ones(2, 15)}


# {what trips a guard: (the model and its arguments, the end of the sentence)}.
TRIPPED = {
    "conformer": (conformer, "layers that mix neighbouring tokens outside of attention"),
    "feat_scale": (
        lambda: small_stable_audio(qk_norm="ln", feat_scale=True),
        "layers that mix neighbouring tokens outside of attention",
    ),
    "ar_state": (block_by_block, "a sampler that makes the video block by block (ar_video)"),
    "attention_mask": (masked_sound, "a mask of its sound"),
}


@torch.inference_mode()
def sentences(rank, world):
    """{what: the sentence}, and whether the model runs when it is not split."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    found, whole = {}, {}
    for what, (make, _) in TRIPPED.items():
        module, given = make()
        sharding = TokenSharding(module, plan_for(module), attention)
        found[what] = "nothing"
        try:
            evaluate_split(sharding, SLOTS, **given)
        except Unsupported as refusal:
            found[what] = str(refusal)
        if what in ("conformer", "feat_scale"):
            whole[what] = bool(evaluate_whole(sharding, **given).isfinite().all())
    return found, whole


def test_every_guard_of_a_family_alone_refuses(tmp_path):
    for found, whole in launch(sentences, 2, tmp_path):
        assert all(whole.values())
        for what, (_, reason) in TRIPPED.items():
            assert f"cannot be split over ranks with {reason}; set on_unsupported" in found[what]


def test_no_guard_is_forgotten():
    alone = {guard.reason for plan in PLANS for guard in plan.guards if guard not in SHARED}
    assert alone == {reason for _, reason in TRIPPED.values()}
