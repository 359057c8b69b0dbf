"""Ideogram 4, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TEXT_MASK, TIMES, build, randn
from .changes import after, changed


def ideogram():
    """Two layers."""
    return build(
        "comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel", in_channels=16, num_layers=2,
        num_attention_heads=HEADS, attention_head_dim=12, intermediate_size=96, adaln_dim=16, llm_features_dim=20,
        mrope_section=(2, 2, 2),
    )  # fmt: skip


def ideogram_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 16, 5, 3), "timesteps": TIMES, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "ideogram": (ideogram, ideogram_inputs() | {"context": randn(2, 7, 20)}),
        "ideogram, padded text": (
            ideogram,
            ideogram_inputs() | {"context": randn(2, 7, 20), "attention_mask": TEXT_MASK},
        ),
        "ideogram, no text": (ideogram, ideogram_inputs() | {"context": None}),
        "ideogram, a block changed": (changed(ideogram, after("layers.1")), ideogram_inputs()),
    }
