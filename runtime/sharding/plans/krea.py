"""Krea 2.

The blocks see one sequence, text then image, without the length of either: it is split as one segment. The text's own
layers run before, on every rank. Reference latents are more image tokens; index_timestep_zero modulates those from a
position on, which becomes a number of local tokens. The last layer works on each token alone.
"""

from __future__ import annotations

from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan, SplitJoint
from .guards import CONTROL, INSIDE

PLAN = Plan(
    family="Krea 2",
    models=("comfy.ldm.krea2.model.SingleStreamDiT",),
    joint=("tokens",),
    blocks=(Blocks("blocks.*", (("x", ("tokens",), None),)),),
    actions=(
        SplitJoint("blocks.*", "freqs", dim=2),
        LocalArgument("blocks.*", "timestep_zero_index", ("tokens",), lambda token, shard: shard.position(token)),
        AttentionScope("blocks.*"),
        Gather("last", ("tokens",)),
    ),
    passed=(
        Passed("blocks.*", ("vec", "mask")),
        Passed("last", ("x", "tvec")),
    ),
    guards=(INSIDE, CONTROL),
)
