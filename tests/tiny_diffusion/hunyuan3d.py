"""Hunyuan3D 2.0 and 2.1, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .patches import by_position, replaced


def hunyuan3d():
    """Two double and two single blocks."""
    return build(
        "comfy.ldm.hunyuan3d.model.Hunyuan3Dv2", in_channels=4, context_in_dim=20, hidden_size=12 * HEADS,
        mlp_ratio=2.0, num_heads=HEADS, depth=2, depth_single_blocks=2, guidance_embed=True,
    )  # fmt: skip


def hunyuan3d_moe():
    """Four blocks, the first of which hands its tokens to the last, and the last two of which have experts."""
    return build(
        "comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain", in_channels=4, hidden_size=12 * HEADS, context_dim=20,
        depth=4, num_heads=HEADS, num_moe_layers=2, num_experts=3, guidance_cond_proj_dim=None,
    )  # fmt: skip


def hunyuan3d_inputs():
    """A shape of 17 tokens, and 7 of the picture it is to be like."""
    return {"x": randn(2, 4, 17), "context": randn(2, 7, 20)}


def _around_all(args, extra):
    """As the patches of other families, of a model that calls its tokens "x"."""
    return by_position(extra["original_block"](args | {"x": by_position(args["x"])}))


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    double = ("double_block", 0)
    return {
        "hunyuan3d": (hunyuan3d, hunyuan3d_inputs() | {"timestep": TIMES, "guidance": torch.full((2,), 5.0)}),
        "hunyuan3d, blocks around": (
            hunyuan3d,
            hunyuan3d_inputs() | {"timestep": TIMES} | replaced(double, ("single_block", 0)),
        ),
        "hunyuan3d 2.1": (hunyuan3d_moe, hunyuan3d_inputs() | {"t": TIMES}),
        "hunyuan3d 2.1, blocks around": (
            hunyuan3d_moe,
            hunyuan3d_inputs() | {"t": TIMES} | replaced(("block", 0), ("block", 3), by=_around_all),
        ),
    }
