"""CogVideoX, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def cogvideo(**changes):
    """Two blocks of CogVideoX with rotary positions."""
    arguments = {
        "num_attention_heads": HEADS, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
        "time_embed_dim": 32, "text_embed_dim": 20, "num_layers": 2, "sample_width": 8, "sample_height": 8,
        "sample_frames": 9, "max_text_seq_length": 7, "use_rotary_positional_embeddings": True,
    }  # fmt: skip
    return build("comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel", **arguments | changes)


def cogvideo_inputs():
    """Three frames of 15 tokens and a text."""
    return {"x": randn(2, 4, 3, 10, 6), "timestep": TIMES * 1000, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "cogvideo": (cogvideo, cogvideo_inputs()),
        "cogvideo, two frames per token (1.5)": (
            lambda: cogvideo(patch_size_t=2, ofs_embed_dim=32, time_embed_dim=32),
            cogvideo_inputs() | {"ofs": torch.tensor([2.0])},
        ),
        "cogvideo, a block changed": (changed(cogvideo, after("blocks.0")), cogvideo_inputs()),
    }
