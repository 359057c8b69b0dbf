"""PixArt, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def pixart():
    """Two blocks."""
    return build(
        "comfy.ldm.pixart.pixartms.PixArtMS", input_size=8, in_channels=4, hidden_size=12 * HEADS, depth=2,
        num_heads=HEADS, caption_channels=20, model_max_length=7, qk_norm=False,
    )  # fmt: skip


def pixart_inputs():
    """A picture of 155 tokens, as fewer have no positions, and a text."""
    return {"x": randn(2, 4, 62, 10), "timesteps": TIMES * 1000, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "pixart": (pixart, pixart_inputs()),
        "pixart, a block changed": (changed(pixart, after("blocks.1.mlp")), pixart_inputs()),
    }
