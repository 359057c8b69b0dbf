"""JoyImage Edit, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .patches import replaced


def joyimage():
    """Two blocks."""
    return build(
        "comfy.ldm.joyimage.model.JoyImageTransformer3DModel", in_channels=4, hidden_size=12 * HEADS,
        num_attention_heads=HEADS, text_dim=20, mlp_width_ratio=2.0, num_layers=2, rope_dim_list=[4, 4, 4],
    )  # fmt: skip


def joyimage_inputs():
    """A picture of 15 tokens and a text."""
    return {"hidden_states": randn(2, 4, 1, 10, 6), "timestep": TIMES * 1000, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    reference = randn(2, 4, 1, 4, 6)
    two = {"ref_latents": [reference, randn(2, 4, 1, 6, 6)]}
    double = ("double_block", 0)
    return {
        "joyimage": (joyimage, joyimage_inputs()),
        "joyimage, reference latents": (joyimage, joyimage_inputs() | two),
        "joyimage, blocks around, reference latents": (joyimage, joyimage_inputs() | two | replaced(double)),
    }
