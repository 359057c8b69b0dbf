"""HunyuanDiT, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, Afresh, build, randn
from .patches import replaced


def hydit():
    """Four blocks, the first of which hands its tokens to the last."""
    return build(
        "comfy.ldm.hydit.models.HunYuanDiT", input_size=None, hidden_size=8 * HEADS, depth=4, num_heads=HEADS,
        mlp_ratio=2.0, text_states_dim=20, text_states_dim_t5=16, text_len=7, text_len_t5=5, size_cond=True,
    )  # fmt: skip


def hydit_inputs():
    """A picture of 15 tokens, texts of CLIP and T5 with their masks, and sizes."""
    masks = {
        "text_embedding_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3]),
        "text_embedding_mask_t5": torch.tensor([[1] * 5, [1] * 2 + [0] * 3]),
    }
    size = torch.tensor([[80.0, 48, 80, 48, 0, 0]] * 2)
    given = {"x": randn(2, 4, 10, 6), "t": TIMES * 1000, "context": randn(2, 7, 20)}
    return given | {"encoder_hidden_states_t5": randn(2, 5, 16), "image_meta_size": size} | masks


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    control = {"control": Afresh(output=[randn(2, 15, 8 * HEADS)])}
    double = ("double_block", 0)
    last = ("double_block", 3)
    return {
        "hunyuandit": (hydit, hydit_inputs()),
        "hunyuandit, ControlNet": (hydit, hydit_inputs() | control),
        "hunyuandit, blocks around, ControlNet": (hydit, hydit_inputs() | control | replaced(double, last)),
    }
