"""LTX-Video.

Only video tokens are split; cross-attention sees the whole text with local queries. Time steps are one for all or one
per token (image to video, keyframes). Keyframes are more video tokens. The model modulates behind its blocks with a
time step per token, so the tokens are gathered there. A guide with a strength of its own is masked by position.
"""

from __future__ import annotations

from torch import Tensor

from ..own import Own
from ..plan import AttentionScope, Blocks, Gather, Guard, Localise, Plan, Split
from .guards import CONTROL, INSIDE

GUIDE_STRENGTH = Guard(
    "transformer_blocks.first",
    lambda arguments: arguments.get("self_attention_mask") is not None,
    "a guide of another strength than 1",
)


def rope(pe: tuple[Tensor, bool], own: Own) -> tuple[Tensor, bool]:
    """The rotary table of the own tokens; the flag says how it is laid out."""
    return own.tokens(pe[0]), pe[1]


PLAN = Plan(
    family="LTX-Video",
    models=("comfy.ldm.lightricks.model.LTXVModel",),
    joint=("video",),
    actions=(
        Split("transformer_blocks.first", "x", "video"),
        Localise("transformer_blocks.*", "pe", ("video",), rope),
        Localise("transformer_blocks.*", "timestep", ("video",), lambda t, own: own.tokens(t)),
        AttentionScope("transformer_blocks.*.attn1", calls=(("video",),)),
        Gather("transformer_blocks.last", ("video",)),
    ),
    guards=(INSIDE, CONTROL, GUIDE_STRENGTH),
    blocks=(Blocks("transformer_blocks.*", (("x", ("video",), None),)),),
)
