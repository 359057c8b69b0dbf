"""Ideogram 4.

The layers see one sequence, text then image, or the image alone: it is split as one segment. The mask that separates
the padding of the text is made for all tokens, so it passes unchanged. The last layer works on each token alone.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, Passed, Plan, SplitJoint
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="Ideogram 4",
    models=("comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel",),
    joint=("tokens",),
    blocks=(Blocks("layers.*", (("x", ("tokens",), None),)),),
    actions=(
        SplitJoint("layers.*", "freqs_cis", dim=1),
        AttentionScope("layers.*"),
        Gather("final_layer", ("tokens",)),
    ),
    passed=(
        Passed("layers.*", ("attn_mask", "adaln_input")),
        Passed("final_layer", ("x", "c")),
    ),
    guards=(INSIDE, CONTROL),
)
