"""LTX-Video, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .patches import replaced
from .presence import IMAGE_OF_LTX, where_present


def ltx():
    """Two blocks of LTX-Video."""
    return build(
        "comfy.ldm.lightricks.model.LTXVModel", in_channels=8, cross_attention_dim=12 * HEADS, attention_head_dim=12,
        num_attention_heads=HEADS, caption_channels=20, num_layers=2,
    )  # fmt: skip


def ltx_inputs():
    """Three frames of 5 tokens and a text."""
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return {"x": randn(2, 8, 3, 5, 1), "timestep": TIMES[:, None], "context": randn(2, 7, 20), "attention_mask": mask}


def ltx_keyframes():
    """As `ltx_inputs`, with the last frame a keyframe that has a place and a time of its own."""
    per_token = torch.rand(2, 15, 1, generator=torch.Generator().manual_seed(1))
    coordinates = torch.arange(15.0).reshape(1, 3, 5, 1).repeat(2, 1, 1, 1)
    mask = torch.ones(2, 1, 3, 5, 1)
    return ltx_inputs() | {"timestep": per_token, "keyframe_idxs": coordinates, "denoise_mask": mask}


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


def ltx_image():
    return build(
        IMAGE_OF_LTX, in_channels=8, cross_attention_dim=12 * HEADS, attention_head_dim=12, num_attention_heads=HEADS,
        caption_channels=20, num_layers=2,
    )  # fmt: skip


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    double = ("double_block", 0)
    found = {
        "ltx": (ltx, ltx_inputs()),
        "ltx, time step per token and keyframe": (ltx, ltx_keyframes()),
        "ltx, blocks around": (ltx, ltx_inputs() | replaced(double)),
        "ltx, guides of two strengths": (ltx, guided(ltx_inputs(), 0.3, 2.0)),
        "ltx, guide by region, blocks around": (
            ltx,
            guided(ltx_inputs(), 0.8, pixel_mask=_by_region()) | replaced(("double_block", 0)),
        ),
    }
    return found | where_present(
        IMAGE_OF_LTX,
        {
            "ltx image": (ltx_image, ltx_inputs()),
        },
    )
