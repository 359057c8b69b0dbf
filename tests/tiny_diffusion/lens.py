"""Lens, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TEXT_MASK, TIMES, build, randn
from .patches import behind, control, replaced


def lens():
    """Two blocks and a text of two layers."""
    return build(
        "comfy.ldm.lens.model.LensTransformer2DModel", in_channels=16, out_channels=4, num_layers=2,
        attention_head_dim=12, num_attention_heads=HEADS, enc_hidden_dim=20, axes_dims_rope=(4, 4, 4),
        selected_layer_index=(1, 2),
    )  # fmt: skip


def lens_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 16, 5, 3), "timestep": TIMES, "context": randn(2, 7, 40)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    double = ("double_block", 0)
    return {
        "lens": (lens, lens_inputs()),
        "lens, mask of the text, ControlNet": (lens, lens_inputs() | {"attention_mask": TEXT_MASK} | control(72)),
        "lens, blocks around, mask of the text, ControlNet": (
            lens,
            lens_inputs() | {"attention_mask": TEXT_MASK} | replaced(double) | control(72),
        ),
        "lens, patch behind every block": (lens, lens_inputs() | behind()),
    }
