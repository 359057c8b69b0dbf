"""ERNIE-Image, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def ernie():
    """Two layers."""
    return build(
        "comfy.ldm.ernie.model.ErnieImageModel", hidden_size=12 * HEADS, num_attention_heads=HEADS, num_layers=2,
        ffn_hidden_size=96, in_channels=4, out_channels=4, text_in_dim=20, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip


def ernie_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 5, 3), "timesteps": TIMES, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "ernie": (ernie, ernie_inputs()),
        "ernie, a block changed": (changed(ernie, after("layers.1")), ernie_inputs()),
    }
