"""Hunyuan Video and its relatives, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .patches import control, replaced


def hunyuan(**changes):
    """Two double and two single blocks of Hunyuan Video."""
    arguments = {
        "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS,
        "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4],
        "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": False, "byt5": False,
        "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
    }  # fmt: skip
    return build("comfy.ldm.hunyuan_video.model.HunyuanVideo", **arguments | changes)


def hunyuan15():
    """Hunyuan Video 1.5: no single blocks, more kinds of text, no pooled text."""
    return hunyuan(
        depth_single_blocks=0,
        byt5=True,
        use_cond_type_embedding=True,
        vision_in_dim=8,
        vec_in_dim=None,
        patch_size=[1, 1, 1],
    )


def hunyuan_inputs(height=10):
    """Three frames of (height / 2) 3 tokens and a text."""
    return {"x": randn(2, 4, 3, height, 6), "timestep": TIMES * 1000, "context": randn(2, 7, 20), "y": randn(2, 16)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    text_mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    first_frame = {"guiding_frame_index": torch.zeros(2)}
    more_text = {"txt_byt5": randn(2, 3, 1472), "clip_fea": randn(2, 2, 8)}
    single = ("single_block", 0)
    double = ("double_block", 0)
    last = ("double_block", 1)
    return {
        "hunyuan": (hunyuan, hunyuan_inputs()),
        "hunyuan, mask of the text": (hunyuan, hunyuan_inputs(6) | {"attention_mask": text_mask}),
        "hunyuan, first frame given": (lambda: hunyuan(guidance_embed=False), hunyuan_inputs() | first_frame),
        "hunyuan, ControlNet": (hunyuan, hunyuan_inputs() | control(72, tokens=45)),
        "hunyuan 1.5": (hunyuan15, hunyuan_inputs() | more_text),
        "hunyuan, blocks around": (hunyuan, hunyuan_inputs() | replaced(double, single)),
        "hunyuan, blocks around, first frame given": (hunyuan, hunyuan_inputs() | replaced(last, single) | first_frame),
    }
