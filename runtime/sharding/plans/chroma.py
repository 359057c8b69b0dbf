"""Chroma, which has Flux's blocks with modulation computed beforehand, and Chroma Radiance, which decodes to pixels.

As Flux, but Chroma has no reference latents. Radiance's decoder needs all image tokens: they are gathered after the
last block, where the local text still lies in front of them and the model cuts it off by its local length. Control that
a ControlNet adds after that block would be added to all tokens, so Radiance is refused with one.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, ControlResiduals, Gather, Passed, Plan, SplitJoint
from .guards import CONTROL, INSIDE

_ACTIONS = (
    SplitJoint("double_blocks.*", "pe", dim=2),
    SplitJoint("single_blocks.*", "pe", dim=2),
    AttentionScope("double_blocks.*"),
    AttentionScope("single_blocks.*"),
)
_PASSED = (Passed("double_blocks.*", ("vec", "attn_mask")), Passed("single_blocks.*", ("vec", "attn_mask")))
_BLOCKS = (
    Blocks("double_blocks.*", (("img", ("image",), 0), ("txt", ("text",), 1))),
    Blocks("single_blocks.*", (("x", ("text", "image"), None),)),
)

PLAN = Plan(
    family="Chroma",
    models=("comfy.ldm.chroma.model.Chroma",),
    joint=("text", "image"),
    blocks=_BLOCKS,
    actions=(ControlResiduals("", "control", "image"), *_ACTIONS, Gather("final_layer", ("image",))),
    passed=(*_PASSED, Passed("final_layer", ("x", "vec"))),
    guards=(INSIDE,),
)

RADIANCE = Plan(
    family="Chroma Radiance",
    models=("comfy.ldm.chroma_radiance.model.ChromaRadiance",),
    joint=("text", "image"),
    blocks=_BLOCKS,
    actions=(*_ACTIONS, Gather("single_blocks.last", ("image",), after=("text",))),
    passed=_PASSED,
    guards=(INSIDE, CONTROL),
)
