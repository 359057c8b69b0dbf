"""Stable Diffusion 3, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, build, inputs
from .patches import control, replaced, skip


def sd3(**changes):
    """Two joint blocks, the first of which attends twice (as 3.5 medium's do)."""
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 20, "out_features": 64 * HEADS}}
    arguments = {
        "input_size": None, "patch_size": 2, "in_channels": 4, "depth": HEADS, "num_blocks": 2, "mlp_ratio": 1.0,
        "adm_in_channels": 16, "context_embedder_config": embedder, "qk_norm": "rms", "x_block_self_attn_layers": [0],
        "pos_embed_max_size": None, "num_patches": None,
    }  # fmt: skip
    return build("comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper", **arguments | changes)


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    last = ("double_block", 1)
    double = ("double_block", 0)
    return {
        "sd3": (sd3, inputs("sd3")),
        "sd3, odd size": (sd3, inputs("sd3", text=5, height=8, width=14)),
        "sd3, ControlNet": (sd3, inputs("sd3") | control(64 * HEADS)),
        "sd3, blocks around": (sd3, inputs("sd3") | replaced(last)),
        "sd3, layer skipped": (sd3, inputs("sd3") | replaced(double, by=skip)),
    }
