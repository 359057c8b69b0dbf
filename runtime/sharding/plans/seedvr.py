"""SeedVR2, which restores films.

Tokens have no batch dimension: those of all films are concatenated, and that is split. A block attends within windows
whose shapes follow from the film's. A window may hold tokens of several ranks, and the text, whose results are averaged
over all windows. So Q, K and V of all tokens are gathered, and each rank attends within its share of the windows. All
else works on each token alone. The modulation is repeated for each token, so the lengths of the films become the number
of local tokens of each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..local_shard import LocalShard
from ..plan import DivideSequences, Gather, LocalArgument, Passed, Plan, Split
from .guards import CONTROL, PATCHES


def _lengths(hid_len: Any, shard: LocalShard) -> Any:
    """The number of local tokens of each film."""
    ((first, last),) = shard.layout.ranges(shard.index)
    ends = hid_len.vid.cumsum(0)
    return replace(hid_len, vid=(ends.clamp(max=last) - (ends - hid_len.vid).clamp(min=first)).clamp(min=0))


PLAN = Plan(
    family="SeedVR2",
    models=("comfy.ldm.seedvr.model.NaDiT",),
    joint=("video",),
    actions=(
        Split("blocks.first", "vid", "video", dim=0),
        LocalArgument("blocks.*.ada", "hid_len", ("video",), _lengths),
        Gather("blocks.*.attn.proj_qkv", ("video",), dim=0, item=0),
        DivideSequences("", module="comfy.ldm.seedvr.model", function="optimized_var_attention"),
        Split("blocks.*.attn.proj_out", "vid", "video", dim=0),
        Gather("vid_out.proj", ("video",), dim=0),
    ),
    passed=(
        Passed("blocks.*", ("txt", "vid_shape", "txt_shape", "emb", "cache")),
        Passed("blocks.*.ada", ("vid", "txt")),
        Passed("blocks.*.attn.proj_out", ("txt",)),
    ),
    guards=(PATCHES, CONTROL),
)
