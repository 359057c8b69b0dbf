"""Qwen-Image and Mage-Flow, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TEXT_MASK, TIMES, build, randn
from .flux import REFERENCE
from .patches import behind, control, replaced


def qwen(**changes):
    """Two blocks of Qwen-Image."""
    arguments = {
        "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 12, "num_attention_heads": HEADS,
        "joint_attention_dim": 20, "axes_dims_rope": (4, 4, 4),
    }  # fmt: skip
    return build("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel", **arguments | changes)


def qwen_inputs(text=7):
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 1, 10, 6), "timestep": TIMES, "context": randn(2, text, 20, seed=text)}


def mage_flow():
    """Two blocks."""
    return build(
        "comfy.ldm.mage_flow.model.MageFlowTransformer2DModel", in_channels=16, out_channels=16, num_layers=2,
        attention_head_dim=12, num_attention_heads=HEADS, joint_attention_dim=20, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip


def mage_flow_inputs():
    """A picture of 15 tokens and a text; ComfyUI rounds the time."""
    return qwen_inputs() | {"x": randn(2, 16, 5, 3), "timestep": TIMES.bfloat16()}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    text_mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    double = ("double_block", 0)
    return {
        "qwen": (qwen, qwen_inputs()),
        "qwen, mask of the text": (qwen, qwen_inputs() | {"attention_mask": text_mask}),
        "qwen, reference latent": (qwen, qwen_inputs() | {"ref_latents": [randn(2, 4, 1, 4, 6)]}),
        "qwen, reference latent at time 0": (
            qwen,
            qwen_inputs() | REFERENCE | {"ref_latents": [randn(2, 4, 1, 4, 6)]},
        ),
        "qwen, ControlNet": (qwen, qwen_inputs(5) | control(72, double=2)),
        "qwen, blocks around": (qwen, qwen_inputs() | replaced(double)),
        "qwen, patch behind every block": (qwen, qwen_inputs() | behind()),
        "mage flow": (mage_flow, mage_flow_inputs()),
        "mage flow, mask of the text, reference latent, ControlNet": (
            mage_flow,
            mage_flow_inputs() | {"attention_mask": TEXT_MASK, "ref_latents": [randn(2, 16, 2, 3)]} | control(72),
        ),
        "mage flow, blocks around": (mage_flow, mage_flow_inputs() | replaced(double)),
        "mage flow, patch behind every block": (mage_flow, mage_flow_inputs() | behind()),
    }
