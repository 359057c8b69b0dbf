"""Modules whose forward has other parameters than their plan was written for, in code of ComfyUI that was rewritten."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import OTHER_DEGREES, Unsupported
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.control_plans import control_plan
from compact_parallel.runtime.sharding.misfit import expected_of, misfit
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from compact_parallel.runtime.sharding.parameters import may_be_of_tokens
from compact_parallel.runtime.sharding.plans import has_plan, plan_for, splits_rows
from distributed import launch
from evaluating import evaluate_split
from rewriting import FLUX, LAYERS, RENAMED, new_parameter, rewrite
from sequence_parts import axes
from tiny_diffusion import cascade, cases, controlnets, needs_comfyui, presence, unet

pytestmark = needs_comfyui
LIMIT = 1e-5
MMDIT = "comfy/ldm/modules/diffusionmodules/mmdit.py"
UNET = "comfy/ldm/modules/diffusionmodules/openaimodel.py"
_MIXING = "def _block_mixing(context, x, "
AS_IT_IS = {LAYERS: [], FLUX: [], MMDIT: [], UNET: []}

# {what: (case, change, what the sentence says, "" where the split model is exact)}.
CHANGES = {
    "nothing": ("flux", {}, ""),
    "renamed": ("flux", RENAMED, "the DoubleStreamBlock (double_blocks.0) of {}, whose forward has no pe (but freqs)"),
    "needed": ("flux", new_parameter("weights", "weights=None,"), "forward needs weights, of which the plan knows"),
    "not given": ("flux", new_parameter("weights=None", ""), ""),
    "the same for all tokens": ("flux", new_parameter("weights=None", "weights=vec[:, None, :1],"), ""),
    "of single tokens": (
        "flux",
        new_parameter("weights=None", "weights=torch.linspace(1, 2, img.shape[1])[None, :, None],"),
        "forward is given weights, of which the plan knows nothing and which may be about single tokens",
    ),
    "another order": (
        "sd3",
        {
            MMDIT: [
                (_MIXING, "def _block_mixing(x, context, "),
                (
                    "                    context,\n                    x,\n",
                    "                    x,\n                    context,\n",
                ),
            ]
        },
        "",
    ),
    "handed to another function": (
        "sd3",
        {MMDIT: [("_block_mixing", "_mixed_blocks")]},
        "the JointBlock (joint_blocks.0) of {}, whose forward is not known, as there is no comfy.ldm.modules",
    ),
    "of a UNet": (
        "unet",
        {
            UNET: [
                (
                    '    def forward(self, x, emb):\n        """\n        Apply the block',
                    '    def forward(self, x, emb, rows):\n        """\n        Apply the block',
                ),
                ("x = layer(x, emb)\n", "x = layer(x, emb, None)\n"),
            ]
        },
        "the ResBlock (input_blocks.1.0) of {}, whose forward needs rows, of which the plan knows nothing",
    ),
}


@torch.inference_mode()
def outcomes(rank, world):
    """{what: (whether there is a plan, the sentence or error of the split model, hooks left, how much it changed)}."""
    found, stock = {}, {}
    builds = cases() | unet.cases()
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    for what, (case, change, _) in CHANGES.items():
        rewrite({**AS_IT_IS, **change})
        build, given = builds[case]
        module = build()
        whole = module(**given)
        stock.setdefault(case, whole)
        try:
            sharding = split_over_ranks(module, attention)
            said = difference(evaluate_split(sharding, batch_slots({"uuids": ["first", "second"]}, 2), **given), whole)
        except Unsupported as refusal:
            said = str(refusal)
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
        found[what] = has_plan(module), said, hooks, difference(whole, stock[case])
    return found


def test_what_does_not_fit_is_refused_by_name_and_what_does_is_exact(tmp_path):
    from comfyui_version import __version__

    for found in launch(outcomes, 2, tmp_path, timeout_s=300):
        for what, (_, _, sentence) in CHANGES.items():
            planned, said, hooks, changed = found[what]
            assert hooks == 0, what
            assert (changed > 100 * LIMIT) == (what in ("the same for all tokens", "of single tokens")), what
            if not sentence:
                assert planned and said < LIMIT, (what, said)
                continue
            assert sentence.format(f"ComfyUI {__version__}") in said and said.endswith(f"; {OTHER_DEGREES}"), (
                what,
                said,
            )
            assert f"ComfyUI {__version__}" in said
            assert planned == (what == "of single tokens"), what  # which only a call shows


def every_model():
    """{name: (module, plan)} of every tiny model and ControlNet."""
    for name, (build, *_) in (cases() | unet.cases() | cascade.cases()).items():
        module = build()
        yield name, module, plan_for(module)
    for name, (build, *_) in controlnets.cases().items():
        module = build()
        if plan := control_plan(module):
            yield name, module, plan


def test_every_plan_fits_this_comfyui_and_knows_what_its_blocks_are_given():
    """What is given in these cases and not known would be refused: test_families and others show that it is not."""
    families = set()
    for name, module, plan in every_model():
        expected = expected_of(module, plan, given=())
        assert misfit(module, expected) == "", name
        if not (name in controlnets.cases() or splits_rows(module)):
            families.add(plan.family)
            blocks = [path for path, each in expected.items() if each.known is not None]
            assert blocks, f"{plan.family} does not say what its blocks may be given"
            for path, each in expected.items():  # a keyword that nobody has declared is known by its call only
                if each.names and path and each.parameters().others:
                    assert each.known is not None, (plan.family, path)
    assert families == presence.families()


@pytest.mark.parametrize(
    ("value", "may_be"),
    [
        (None, False), (True, False), (0.5, False), ("all", False), ({"a": 0.5}, False),
        (torch.ones(()), False), (torch.ones(2), False), (torch.ones(2, 16), False), (torch.ones(2, 1, 16), False),
        (torch.ones(1, 1, 16), False),
        (3, True), ([(0, 3)], True), ({"a": [1]}, True),
        (torch.ones(7), True), (torch.ones(2, 15), True), (torch.ones(7, 16), True), (torch.ones(2, 3, 16), True),
        ((torch.ones(2, 1, 16), torch.ones(2, 3, 16)), True),
    ],
)  # fmt: skip
def test_what_may_be_about_single_tokens(value, may_be):
    assert may_be_of_tokens(value, 2, {15, 22}) == may_be
