"""LTX-2, video with sound.

Video tokens are split; the few audio tokens are replicated: every rank computes all of them. Video attends to all audio
with local queries; audio attends to the video, which is gathered for it. The rest is as in LTX-Video.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import AttentionScope, Gather, LocalArgument, Passed, Plan, Replicate, Split
from .guards import CONTROL, PATCHES
from .ltx import GUIDE, STG, rope


@cache
def _local_times(kind: type) -> type:
    """Derives from the model's class of time steps, which keeps one per frame; expands them to the local tokens."""

    class LocalTimes(kind):
        __slots__ = ("shard",)

        def expand_for_computation(self, *args: Any) -> tuple[Tensor, ...]:
            return tuple(self.shard.repeated(x) for x in super().expand_for_computation(*args))

    return LocalTimes


def _times(times: Any, shard: LocalShard) -> Any:
    local_times = _local_times(type(times))(times.data, None)
    local_times.shard = shard
    return local_times


PLAN = Plan(
    family="LTX-2",
    models=("comfy.ldm.lightricks.av_model.LTXAVModel",),
    joint=("video",),
    actions=(
        Split("transformer_blocks.first", "x", "video", item=0),
        LocalArgument("transformer_blocks.*", "v_pe", ("video",), rope),
        LocalArgument("transformer_blocks.*", "v_timestep", ("video",), _times),
        LocalArgument("transformer_blocks.*", "v_cross_scale_shift_timestep", ("video",), _times),
        LocalArgument("transformer_blocks.*", "v_cross_gate_timestep", ("video",), _times),
        GUIDE,
        AttentionScope("transformer_blocks.*.attn1", skipped_with=STG),
        LocalArgument("transformer_blocks.*.audio_to_video_attn", "pe", ("video",), rope),
        Replicate("transformer_blocks.*.video_to_audio_attn", "context", "video", cut=False),
        Gather("transformer_blocks.last", ("video",), item=0),
    ),
    passed=(
        Passed(
            "transformer_blocks.*",
            (
                "v_context",
                "a_context",
                "attention_mask",
                "a_timestep",
                "a_pe",
                "v_cross_pe",
                "a_cross_pe",
                "a_cross_scale_shift_timestep",
                "a_cross_gate_timestep",
                "v_prompt_timestep",
                "a_prompt_timestep",
            ),
        ),
    ),
    guards=(PATCHES, CONTROL),
)
