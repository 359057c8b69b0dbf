"""LTX-2, video with sound.

Video tokens are split; the few audio tokens are replicated: every rank computes all of them. Video attends to all audio
with local queries; audio attends to the video, which is gathered for it. The rest is as in LTX-Video.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from ..own import Own
from ..plan import AttentionScope, Gather, Localise, Passed, Plan, Split, Whole
from .guards import CONTROL, PATCHES
from .ltx import GUIDE, STG, rope


@cache
def _own_times(kind: type) -> type:
    """Derives from the model's class of time steps, which keeps one per frame; expands them to the local tokens."""

    class OwnTimes(kind):
        __slots__ = ("own",)

        def expand_for_computation(self, *args: Any) -> tuple[Tensor, ...]:
            return tuple(self.own.repeated(x) for x in super().expand_for_computation(*args))

    return OwnTimes


def _times(times: Any, own: Own) -> Any:
    own_times = _own_times(type(times))(times.data, None)
    own_times.own = own
    return own_times


PLAN = Plan(
    family="LTX-2",
    models=("comfy.ldm.lightricks.av_model.LTXAVModel",),
    joint=("video",),
    actions=(
        Split("transformer_blocks.first", "x", "video", item=0),
        Localise("transformer_blocks.*", "v_pe", ("video",), rope),
        Localise("transformer_blocks.*", "v_timestep", ("video",), _times),
        Localise("transformer_blocks.*", "v_cross_scale_shift_timestep", ("video",), _times),
        Localise("transformer_blocks.*", "v_cross_gate_timestep", ("video",), _times),
        GUIDE,
        AttentionScope("transformer_blocks.*.attn1", calls=(("video",),), skipped_with=STG),
        Localise("transformer_blocks.*.audio_to_video_attn", "pe", ("video",), rope),
        Whole("transformer_blocks.*.video_to_audio_attn", "context", "video", cut=False),
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
