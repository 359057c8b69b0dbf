"""Hooks that fail in a model, in code of ComfyUI that was rewritten, and errors of others that stay what they are."""

from __future__ import annotations

import logging

import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import OTHER_DEGREES, MetAlone, Unsupported
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding import failures
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from distributed import launch
from evaluating import evaluate_split
from rewriting import IN_A_TUPLE, LTX, WAN, rewrite
from sequence_parts import axes, batch_of
from tiny_diffusion import cases, needs_comfyui

pytestmark = needs_comfyui
LIMIT = 1e-5
SLOTS = batch_slots({"uuids": ["first", "second"]}, 2)
GUIDE = "ltx 2, guide of another strength"
LTX_2 = {LTX: [], "comfy/ldm/lightricks/embeddings_connector.py": [], "comfy/ldm/lightricks/av_model.py": []}
# The model calls attention by another name than the one by which a plan meets it.
OTHER_NAME = {
    "comfy/ldm/pixart/blocks.py": [
        ("import optimized_attention", "import optimized_attention as attend"),
        ("optimized_attention(", "attend("),
    ],
    "comfy/ldm/pixart/pixartms.py": [],
}
BODY = "        if e.ndim < 4:\n            e = (comfy.model_management.cast_to(self.modulation"

# {what: (case, change, what the sentence says, "" where the split model is exact)}.
CHANGES = {
    "nothing": ("wan", {WAN: []}, ""),
    "a tuple": (
        "wan",
        IN_A_TUPLE,
        "at blocks.0 (WanAttentionBlock) of WanModel with {} (AttributeError: 'tuple' object",
    ),
    "nothing of the guide": (GUIDE, LTX_2, ""),
    "an attribute": (
        GUIDE,
        LTX_2 | {LTX: [("noisy_mask", "masked")]},
        "at transformer_blocks.0 (BasicAVTransformerBlock) of LTXAVModel with {} (",
    ),
}


class Records(logging.Handler):
    """What was logged."""

    def __init__(self):
        super().__init__()
        self.told = []

    def emit(self, record):
        self.told.append((record.getMessage(), record.exc_info is not None and record.exc_info[0].__name__))


def split(module, given, rank, world, **options):
    """One evaluation over the ranks."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    given = {**given, "transformer_options": given.get("transformer_options", {}) | options}
    return evaluate_split(split_over_ranks(module, attention), SLOTS[: batch_of(given)], **given)


@torch.inference_mode()
def outcomes(rank, world):
    """{what: (the kind of the refusal and its sentence, or the error of the split model; what was logged)}."""
    found = {}
    for what, (case, change, _) in CHANGES.items():
        rewrite(change)
        build, given = cases()[case]
        module = build()
        records = Records()
        failures.log.addHandler(records)
        try:
            outcome = difference(split(module, given, rank, world), module(**given))
        except Unsupported as refusal:
            outcome = type(refusal).__name__, str(refusal)
        failures.log.removeHandler(records)
        found[what] = outcome, records.told
    return found


def test_a_hook_that_fails_is_a_refusal_and_the_log_has_the_traceback(tmp_path):
    from comfyui_version import __version__

    for found in launch(outcomes, 2, tmp_path, timeout_s=300):
        for what, (_, _, sentence) in CHANGES.items():
            outcome, told = found[what]
            if not sentence:
                assert outcome < LIMIT and not told, what
                continue
            kind, said = outcome
            assert kind == MetAlone.__name__, said
            assert said.startswith("Parallel Model's own code failed at "), said
            assert sentence.format(f"ComfyUI {__version__}") in said and said.endswith(f"; {OTHER_DEGREES}"), said
            assert told == [(said, "AttributeError")]


def broken(func, *args, **kwargs):
    """A workflow's attention override with an error."""
    return args[0].no_such_attribute


def with_too_few(func, q, k, v):
    """One that takes other arguments than ComfyUI gives."""


class WithTooFew:
    """A patch that does."""

    def __call__(self, q, k):
        return {}


@torch.inference_mode()
def errors_of_others(rank, world):
    """{what: the kind of the error}, of errors that are no failures of this pack's."""
    found = {}
    build, given = cases()["wan"]
    try:
        split(build(), given, rank, world, optimized_attention_override=broken)
    except AttributeError as error:
        found["of an override within a hook"] = type(error).__name__
    for what, options in {
        "of an override that does not take what it is given": {"optimized_attention_override": with_too_few},
        "of a patch that does not": {"patches": {"attn1_patch": [WithTooFew()]}},
    }.items():
        try:
            split(build(), given, rank, world, **options)
        except TypeError as error:
            found[what] = type(error).__name__
    rewrite({WAN: [(BODY, f"        e.no_such_attribute\n{BODY}")]})
    try:
        split(build(), given, rank, world)
    except AttributeError as error:
        found["of the model"] = type(error).__name__
    rewrite({WAN: [(BODY, f"        torch.cat(e, e, e)\n{BODY}")]})
    try:
        split(build(), given, rank, world)
    except TypeError as error:
        found["of a library that the model calls"] = type(error).__name__
    return found


def test_errors_of_the_model_and_of_a_workflow_stay_what_they_are(tmp_path):
    for found in launch(errors_of_others, 2, tmp_path):
        assert found == {
            "of an override within a hook": "AttributeError",
            "of an override that does not take what it is given": "TypeError",
            "of a patch that does not": "TypeError",
            "of the model": "AttributeError",
            "of a library that the model calls": "TypeError",
        }


@torch.inference_mode()
def unattached(rank, world):
    """(the kind of the refusal, its sentence, hooks left) of a model that the hooks cannot be put on."""
    build, given = cases()["pixart"]
    exact = difference(split(build(), given, rank, world), build()(**given))
    rewrite(OTHER_NAME)
    module = build()
    try:
        split(module, given, rank, world)
    except Unsupported as refusal:
        left = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
        return exact, type(refusal).__name__, str(refusal), left
    return exact, None


def test_hooks_that_cannot_be_put_on_are_a_refusal_that_all_ranks_meet(tmp_path):
    for exact, kind, sentence, left in launch(unattached, 2, tmp_path):
        assert exact < LIMIT
        assert kind == Unsupported.__name__ and left == 0
        assert sentence.startswith("Parallel Model's own code failed outside of the model's modules with ComfyUI ")
        assert "optimized_attention" in sentence and sentence.endswith(f"; {OTHER_DEGREES}")
