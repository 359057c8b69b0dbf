"""Chroma and Chroma Radiance, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .patches import control, replaced


def chroma(kind="chroma.model.Chroma", **changes):
    """Two double and two single blocks, whose modulations a small network makes from 344 numbers."""
    arguments = {
        "in_channels": 16, "out_channels": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS, "mlp_ratio": 2.0,
        "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4], "theta": 10000,
        "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 12 * HEADS, "hidden_dim": 32, "n_layers": 1,
        "txt_ids_dims": [], "vec_in_dim": 16,
    }  # fmt: skip
    return build(f"comfy.ldm.{kind}", **arguments | changes)


def radiance():
    """As Chroma, with a decoder to pixels."""
    return chroma(
        "chroma_radiance.model.ChromaRadiance", in_channels=3, out_channels=3, nerf_hidden_size=8, nerf_mlp_ratio=2,
        nerf_depth=1, nerf_max_freqs=2, nerf_tile_size=4, nerf_final_head_type="conv", nerf_embedder_dtype=None,
        use_x0=False, use_sequential_txt_ids=True,
    )  # fmt: skip


def chroma_inputs(channels=4):
    """A picture of 15 tokens and a text."""
    guidance = torch.tensor([0.0, 2.0])
    return {"x": randn(2, channels, 10, 6), "timestep": TIMES, "context": randn(2, 7, 20), "guidance": guidance}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    single = ("single_block", 0)
    double = ("double_block", 0)
    return {
        "chroma": (chroma, chroma_inputs()),
        "chroma, ControlNet": (chroma, chroma_inputs() | control(72)),
        "chroma radiance": (radiance, chroma_inputs(3)),
        "chroma, blocks around": (chroma, chroma_inputs() | replaced(double, single)),
        "chroma radiance, blocks around": (radiance, chroma_inputs(3) | replaced(double, ("single_block", 1))),
    }
