"""LTX-2, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .ltx import guided


def ltx_av():
    """Two blocks of LTX-2."""
    return build(
        "comfy.ldm.lightricks.av_model.LTXAVModel", in_channels=8, audio_in_channels=128,
        cross_attention_dim=12 * HEADS, audio_cross_attention_dim=8 * HEADS, attention_head_dim=12,
        audio_attention_head_dim=8, num_attention_heads=HEADS, audio_num_attention_heads=HEADS, caption_channels=20,
        num_layers=2, connector_attention_head_dim=12, connector_num_attention_heads=2, connector_num_layers=1,
        rope_type="split",
    )  # fmt: skip


def ltx_av_inputs():
    """Three frames of 5 tokens, 4 tokens of sound, and a text for both."""
    video, sound = randn(2, 8, 3, 5, 1), randn(2, 8, 4, 16)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return {"x": [video, sound], "timestep": TIMES[:, None], "context": randn(2, 7, 40), "attention_mask": mask}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    seven = torch.rand(2, 15, generator=torch.Generator().manual_seed(1))
    per_frame = seven.reshape(2, 3, 5)[:, :, :1].expand(2, 3, 5).reshape(2, 15, 1)
    both = {"timestep": (per_frame, TIMES[:, None])}
    with_guide = guided(ltx_av_inputs(), 0.3)
    return {
        "ltx 2": (ltx_av, ltx_av_inputs()),
        "ltx 2, time step per frame": (ltx_av, ltx_av_inputs() | both),
        "ltx 2, guide of another strength": (
            ltx_av,
            with_guide | {"timestep": (with_guide["timestep"], ltx_av_inputs()["timestep"])},
        ),
    }
