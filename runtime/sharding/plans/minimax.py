"""MiniMax H3, video with sound.

Text, conditions, sound and video are one sequence without a batch dimension, which is split as one segment. Each range
of it has its own modulation; the ranges become ranges of local tokens. The model takes sound and video out of it by
position before its last layer, so the tokens are gathered after the last block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Blocks, Gather, LocalArgument, Passed, Plan, SplitJoint
from .guards import CONTROL, INSIDE


def _ranges(segments: list[tuple[int, int, Any]], shard: LocalShard) -> list[tuple[int | None, int | None, Any]]:
    return [
        (shard.position(first), shard.position(last), _row(row, first, last, shard)) for first, last, row in segments
    ]


def _row(row: Any, first: int, last: int | None, shard: LocalShard) -> Any:
    """The modulation row of a range; newer ComfyUI may give one per token (L,), of which the local ones are taken."""
    if not isinstance(row, Tensor):
        return row
    end = first + len(row) if last is None else last
    within = [(max(first, start), min(end, stop)) for start, stop in shard.layout.ranges(shard.index)]
    return torch.cat([row[start - first : stop - first] for start, stop in within if start < stop] or [row[:0]])


PLAN = Plan(
    family="MiniMax H3",
    models=("comfy.ldm.minimax.model.MiniMaxH3Model",),
    joint=("tokens",),
    blocks=(Blocks("blocks.*", (("x", ("tokens",), None),), dim=0),),
    actions=(
        SplitJoint("blocks.*", "rope_freqs", dim=1),
        LocalArgument("blocks.*", "mod_segments", ("tokens",), _ranges),
        AttentionScope("blocks.*"),
        Gather("blocks.last", ("tokens",), dim=0),
    ),
    passed=(Passed("blocks.*", ("t_emb",)),),
    guards=(INSIDE, CONTROL),
)
