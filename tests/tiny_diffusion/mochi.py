"""Mochi, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn


def mochi():
    """Two blocks; the model insists on the width of its first perceptron."""
    return build(
        "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint", in_channels=4, hidden_size_x=96,
        hidden_size_y=48, depth=2, num_heads=HEADS, mlp_ratio_x=128.0, mlp_ratio_y=2.0, t5_feat_dim=24,
        t5_token_length=9, qk_norm=True, qkv_bias=False, out_bias=True, patch_embed_bias=True, use_t5=True,
        use_extended_posenc=False,
    )  # fmt: skip


def mochi_inputs(counted):
    """Three frames of 15 tokens and a text of 9 tokens, of which so many count."""
    mask = (torch.arange(9) < counted).repeat(2, 1)
    given = {"x": randn(2, 4, 3, 10, 6), "timestep": TIMES, "context": randn(2, 9, 24), "attention_mask": mask}
    return given | {"num_tokens": counted}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "mochi": (mochi, mochi_inputs(9)),
        "mochi, padded text": (mochi, mochi_inputs(5)),
    }
