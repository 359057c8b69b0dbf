"""Fewer tokens than ranks: exact for every family and every exchange, as a rank's spares are nobody's tokens."""

from unittest import mock

import torch
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.actions import attention_scope
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.padded_layout import PaddedLayout
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes, batch_of
from tiny_diffusion import inputs, needs_comfyui, of_every_family, presence
from tiny_diffusion.flux import flux
from tiny_diffusion.sd3 import sd3

pytestmark = needs_comfyui
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)
LIMIT = 1e-5
TEXT = ("context", "attention_mask")
PICTURE = ("x", "hidden_states", "condition")
PIXELS_PER_TOKEN = {12: 4}  # by the width of the picture; else 2 where it is even
# Families whose arguments do not come so short: there the first rank holds all tokens, the others spares.
LONG = {
    "PixArt", "Wan VACE", "Wan HuMo", "Wan sound to video", "WanDancer", "HunyuanDiT", "ACE-Step 1.5", "LTX-2",
    "TripoSplat", "MiniMax H3", "HiDream O1", "Kandinsky 6", "Wan-Animate 2",
}  # fmt: skip


def shorter(given, text=1, picture=1):
    """The arguments of a forward with so many text tokens, and a picture of one frame and one column of so many."""
    given = dict(given)
    for name in TEXT:
        if isinstance(given.get(name), torch.Tensor):
            given[name] = given[name][:, :text]
    if "lyric_token_idx" in given:  # sound, along the last dimension alone, of which a token sees its neighbours
        return given | {"x": given["x"][..., :2]}
    if given.get("num_tokens"):
        given["num_tokens"] = text
    for name in PICTURE if picture else ():
        x = given.get(name)
        if isinstance(x, torch.Tensor):
            size = 1 if x.ndim < 4 else PIXELS_PER_TOKEN.get(x.shape[-1], 2 - x.shape[-1] % 2)
            x = x[..., : size * picture] if x.ndim < 4 else x[..., : size * picture, :size]
            given[name] = x[:, :, :1] if x.ndim == 5 else x
    return given


def all_on_the_first(layout, part, group=1):
    """In place of TokenLayout.ranges: the first rank holds all tokens."""
    ends = [sum(layout.lengths[: i + 1]) for i in range(len(layout.lengths))]
    return tuple((end - (length if part == 0 else 0), end) for end, length in zip(ends, layout.lengths))


@torch.inference_mode()
def errors_of_families(rank, world):
    """{family: relative error}, the families in which a rank held spares, and the warnings."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    errors, spares = {}, set()
    split = PaddedLayout.split
    for family, (module, arguments) in of_every_family().items():
        sharding = TokenSharding(module, plan_for(module), attention)
        given = arguments if family in LONG else shorter(arguments)
        whole = evaluate_whole(sharding, **given)

        def seen(layout, *of, family=family):
            spares.update({family} if layout.has_padding(world - 1) else ())
            return split(layout, *of)

        ranges = all_on_the_first if family in LONG else TokenLayout.ranges
        with mock.patch.object(TokenLayout, "ranges", ranges), mock.patch.object(PaddedLayout, "split", seen):
            errors[family] = difference(evaluate_split(sharding, SLOTS[: batch_of(given)], **given), whole)
    return errors, spares, attention.ledger.to_json()["warnings"]


def test_every_family_is_exact_with_few_tokens(tmp_path):
    for errors, spares, warnings in launch(errors_of_families, 3, tmp_path, timeout_s=600):
        assert {family: error for family, error in errors.items() if not error < LIMIT} == {}
        assert set(errors) == spares == presence.families()
        assert warnings == []


# (model, text tokens, tokens of the picture); 0 leaves the picture as it is.
FEW = (("flux", 1, 0), ("flux", 1, 3), ("flux", 2, 1), ("sd3", 3, 0), ("sd3", 7, 1))
WAYS = {
    "all_gather": (1, 4, "all_gather"),
    "ring": (1, 4, "ring"),
    "displaced": (1, 4, "displaced"),
    "ulysses and all_gather": (2, 2, "all_gather"),
    "ulysses and ring": (2, 2, "ring"),
}


def handed_on(attend, *args, layout, shard, **kwargs):
    """The negative control: spares are taken for tokens."""
    return attend(*args, layout=layout, **kwargs)


@torch.inference_mode()
def errors_of_ways(rank, world):
    """{(case, way): error of the last call}, {case: with spares handed on}, {case: errors of three calls in 2 bits}."""
    by_degrees = {way[:2]: axes(rank, *way[:2]) for way in WAYS.values()}
    errors, control, compressed = {}, {}, {}
    modules = {"flux": flux(), "sd3": sd3()}
    for case in FEW:
        model, *tokens = case
        module, given = modules[model], shorter(inputs(model), *tokens)
        whole = evaluate_whole(TokenSharding(module, plan_for(module), None), **given)

        def error_by(way, wire=None, calls=1, given=given, whole=whole, module=module):
            attention = SequenceAttention(*by_degrees[way[:2]], way[2], wire or RawWire(), Ledger())
            sharding = TokenSharding(module, plan_for(module), attention)
            return [difference(evaluate_split(sharding, SLOTS, **given), whole) for _ in range(calls)]

        for name, way in WAYS.items():
            errors[case, name] = error_by(way, calls=3 if name == "displaced" else 1)[-1]
        with mock.patch.object(attention_scope, "attend_without_padding", handed_on):
            control[case] = error_by(WAYS["all_gather"])[0]
        wire = make_wire(CompressionConfig(mode="codec", codec="2bit"), Ledger(), 3)
        compressed[case] = error_by(WAYS["ring"], wire, 3)
    return errors, control, compressed


def test_every_exchange_is_exact_with_few_tokens(tmp_path):
    for errors, control, compressed in launch(errors_of_ways, 4, tmp_path, timeout_s=300):
        assert {case: error for case, error in errors.items() if not error < LIMIT} == {}
        assert {case: error for case, error in control.items() if not error > 100 * LIMIT} == {}
        for first, *later in compressed.values():
            assert LIMIT < first < 0.02
            assert max(later) < first / 100  # the inputs are the same: what was lost follows
