"""TripoSplat.

The blocks see one sequence of the splats, the picture and a camera token, which is split as one segment: the model cuts
splats and camera out of all tokens. Before each block it makes positions from the tokens themselves, so after the first
block they are those of the local tokens, where the model holds only these. The refiners (2 of 24 layers) run on every
rank.
"""

from __future__ import annotations

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan
from .guards import CONTROL, INSIDE


def _rope(pe: Tensor, shard: LocalShard) -> Tensor:
    return shard.tokens(pe) if pe.shape[1] == shard.total else pe


PLAN = Plan(
    family="TripoSplat",
    models=("comfy.ldm.triposplat.model.LatentSeqMMFlowModel",),
    joint=("tokens",),
    blocks=(Blocks("blocks.*", (("x", ("tokens",), None),)),),
    actions=(
        LocalArgument("blocks.*", "rotary_emb", ("tokens",), _rope),
        AttentionScope("blocks.*"),
        Gather("blocks.last", ("tokens",)),
    ),
    passed=(Passed("blocks.*", ("mod",)),),
    guards=(INSIDE, CONTROL),
)
