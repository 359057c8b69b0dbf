"""Cosmos Predict2 and Anima, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def predict2(kind="cosmos.predict2.MiniTrainDIT", **changes):
    """Two blocks of Cosmos Predict2, with everything its configurations may ask for."""
    arguments = {
        "max_img_h": 16, "max_img_w": 16, "max_frames": 8, "in_channels": 4, "out_channels": 4, "patch_spatial": 2,
        "patch_temporal": 1, "model_channels": 12 * HEADS, "num_blocks": 2, "num_heads": HEADS, "mlp_ratio": 2.0,
        "crossattn_emb_channels": 20, "pos_emb_cls": "rope3d", "pos_emb_interpolation": "crop",
        "use_adaln_lora": True, "adaln_lora_dim": 16,
    }  # fmt: skip
    return build(f"comfy.ldm.{kind}", **arguments | changes)


def predict2_inputs():
    """Three frames of 15 tokens and a text."""
    return {"x": randn(2, 4, 3, 10, 6), "timesteps": TIMES, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    times = torch.rand(2, 3, generator=torch.Generator().manual_seed(1))
    return {
        "predict2": (predict2, predict2_inputs()),
        "predict2, time step per frame": (predict2, predict2_inputs() | {"timesteps": times}),
        "predict2, positions added in every block": (
            lambda: predict2(extra_per_block_abs_pos_emb=True),
            predict2_inputs(),
        ),
        "predict2, Anima": (lambda: predict2("anima.model.Anima"), predict2_inputs()),
        "predict2, a block changed": (changed(predict2, after("blocks.1")), predict2_inputs()),
    }
