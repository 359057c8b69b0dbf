"""Guides of a video, attended to more or less: {name: (build, keyword arguments of one forward)}, two batch entries."""

from __future__ import annotations

import torch

from .patched import replaced
from .relatives import ltx_av, ltx_av_inputs
from .video import ltx, ltx_inputs


def _by_region():
    """The strength of a guide of a frame of 5 x 1 tokens, by pixels (B, 1, frames, height, width)."""
    return torch.linspace(0.1, 0.9, 40).reshape(1, 1, 1, 40, 1)


def guides(*strengths, pixel_mask=None):
    """transformer_options for guides of one frame of 5 tokens each, of these strengths."""
    return [
        {"pre_filter_count": 5, "strength": strength, "pixel_mask": pixel_mask, "latent_shape": [1, 5, 1]}
        for strength in strengths
    ]


def guided(given, *strengths, **more):
    """The inputs, of which as many frames at the end are guides with places of their own."""
    places = torch.arange(15.0).reshape(1, 1, 15, 1).repeat(2, 3, 1, 2)[:, :, : 5 * len(strengths)]
    times = torch.rand(2, 15, 1, generator=torch.Generator().manual_seed(1))
    about = {"keyframe_idxs": places, "denoise_mask": torch.ones(2, 1, 3, 5, 1), "timestep": times}
    return given | about | {"guide_attention_entries": guides(*strengths, **more)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    both = guided(ltx_av_inputs(), 0.3)
    return {
        "ltx, guides of two strengths": (ltx, guided(ltx_inputs(), 0.3, 2.0)),
        "ltx, guide by region, blocks around": (
            ltx,
            guided(ltx_inputs(), 0.8, pixel_mask=_by_region()) | replaced(("double_block", 0)),
        ),
        "ltx 2, guide of another strength": (
            ltx_av,
            both | {"timestep": (both["timestep"], ltx_av_inputs()["timestep"])},
        ),
    }
