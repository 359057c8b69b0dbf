"""Latte: spatial blocks, whose sequences are the frames, in turn with temporal blocks, one sequence per position.

The positions are split, those of each frame alike. Spatial attention then exchanges keys frame by frame, and a temporal
block has all frames of its positions, so it needs no exchange: only its time step, given for every position, is cut.
"""

from __future__ import annotations

from torch import Tensor

from ...sharding.local_shard import LocalShard
from ...sharding.plan import AttentionScope, Gather, LocalArgument, Passed, Plan, Split
from ..library import DIFFUSERS
from .common import TRANSFORMERS

_PASSED = (
    "attention_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "cross_attention_kwargs",
    "class_labels",
    "added_cond_kwargs",
)


def _of_positions(timestep: Tensor, shard: LocalShard) -> Tensor:
    """The local rows of a time step (B * positions, C)."""
    return shard.tokens(timestep.unflatten(0, (-1, shard.total))).flatten(0, 1)


PLAN = Plan(
    family="Latte",
    models=(f"{TRANSFORMERS}.latte_transformer_3d.LatteTransformer3DModel",),
    library=DIFFUSERS,
    joint=("positions",),
    actions=(
        Split("transformer_blocks.first", "hidden_states", "positions"),
        LocalArgument("temporal_transformer_blocks.*", "timestep", ("positions",), _of_positions),
        AttentionScope("transformer_blocks.*.attn1"),
        Gather("proj_out", ("positions",)),
    ),
    passed=(
        Passed("transformer_blocks.*", ("timestep", *_PASSED)),
        Passed("temporal_transformer_blocks.*", ("hidden_states", *_PASSED)),
    ),
    sequences=lambda arguments: arguments["hidden_states"].shape[2],
)
