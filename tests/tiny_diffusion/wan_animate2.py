"""Wan-Animate 2, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .patches import surrounded
from .presence import FAMILIES, where_present


def animate2():
    return build(
        FAMILIES["Wan-Animate 2"], in_dim=12, dim=16 * HEADS, ffn_dim=64, freq_dim=32, text_dim=20, out_dim=4,
        num_heads=HEADS, num_layers=2, text_len=8,
    )  # fmt: skip


def animate2_inputs(driven=True):
    given = {"x": randn(2, 12, 4, 6, 4), "timestep": TIMES * 1000, "context": randn(2, 8, 20)}
    given |= {"clip_fea": randn(2, 5, 1280), "reference_strength": 0.8, "pose_strength": 1.2}
    return given | ({"pose_latents": randn(2, 4, 3, 6, 4)} if driven else {})


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return where_present(
        FAMILIES["Wan-Animate 2"],
        {
            "animate2": (animate2, animate2_inputs()),
            "animate2, around a block": (animate2, animate2_inputs() | surrounded("double_block", "img")),
            "animate2, not driven": (animate2, animate2_inputs(driven=False)),
        },
    )
