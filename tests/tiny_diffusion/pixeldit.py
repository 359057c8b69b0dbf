"""PixelDiT and PiD, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def pixeldit(kind="model.PixDiT_T2I", **changes):
    """Three patch blocks and a pixel block."""
    arguments = {
        "num_groups": HEADS, "hidden_size": 12 * HEADS, "pixel_hidden_size": 4, "pixel_attn_hidden_size": 12 * HEADS,
        "pixel_num_groups": HEADS, "patch_depth": 3, "pixel_depth": 1, "patch_size": 4, "txt_embed_dim": 20,
        "txt_max_length": 16,
    }  # fmt: skip
    return build(f"comfy.ldm.pixeldit.{kind}", **arguments | changes)


def pixeldit_inputs():
    """A picture of 15 patches and a text."""
    return {"x": randn(2, 3, 20, 12), "timesteps": TIMES * 1000, "context": randn(2, 7, 20)}


def pid():
    """As PixelDiT, with a small latent mixed in before the first and the third block and before the pixel block."""
    return pixeldit("pid.PidNet", lq_latent_channels=4, lq_hidden_dim=16, lq_num_res_blocks=1, pit_lq_inject=True)


def pid_inputs():
    """As for PixelDiT, with a latent."""
    return pixeldit_inputs() | {"lq_latent": randn(2, 4, 3, 2), "degrade_sigma": torch.tensor([0.2])}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "pixeldit": (pixeldit, pixeldit_inputs()),
        "pid": (pid, pid_inputs()),
        "pixeldit, a block changed": (changed(pixeldit, after("patch_blocks.1")), pixeldit_inputs()),
        "pid, a block changed": (changed(pid, after("patch_blocks.0")), pid_inputs()),
    }
