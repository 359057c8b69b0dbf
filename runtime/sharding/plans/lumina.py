"""Lumina 2, Z-Image and its pixel-space variant.

The layers see one sequence, text then image, without the length of either: it is split as one segment. The refiners
before them (2 of 32 layers) run on every rank. Reference latents (Z-Image Omni) are modulated by position; those ranges
become ranges of local tokens. The model cuts the text off after its last layer, from all tokens.
"""

from __future__ import annotations

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan, SplitJoint
from .guards import CONTROL, INSIDE


def _ranges(dims: list[tuple[int, int]], shard: LocalShard) -> list[tuple[int | None, int | None]]:
    return [(shard.position(first), shard.position(last)) for first, last in dims]


_ACTIONS = (
    SplitJoint("layers.*", "freqs_cis", dim=1),
    LocalArgument("layers.*", "timestep_zero_index", ("tokens",), _ranges),
    AttentionScope("layers.*"),
)
_PASSED = (Passed("layers.*", ("x_mask", "adaln_input")),)
_BLOCKS = (Blocks("layers.*", (("x", ("tokens",), None),)),)

PLAN = Plan(
    family="Lumina 2",
    models=("comfy.ldm.lumina.model.NextDiT",),
    joint=("tokens",),
    blocks=_BLOCKS,
    actions=(
        *_ACTIONS,
        LocalArgument("final_layer", "timestep_zero_index", ("tokens",), _ranges, outside=True),
        Gather("final_layer", ("tokens",)),
    ),
    passed=(*_PASSED, Passed("final_layer", ("x", "c"))),
    guards=(INSIDE, CONTROL),
)

PIXEL_SPACE = Plan(
    family="Z-Image pixel space",
    models=("comfy.ldm.lumina.model.NextDiTPixelSpace",),
    joint=("tokens",),
    blocks=_BLOCKS,
    actions=(*_ACTIONS, Gather("layers.last", ("tokens",))),
    passed=_PASSED,
    guards=(INSIDE, CONTROL),
)
