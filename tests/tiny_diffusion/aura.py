"""AuraFlow, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .patches import replaced


def aura():
    """One double and two single layers."""
    return build(
        "comfy.ldm.aura.mmdit.MMDiT", in_channels=4, out_channels=4, dim=12 * HEADS, n_layers=3, n_double_layers=1,
        n_heads=HEADS, global_conddim=12 * HEADS, cond_seq_dim=20, max_seq=64,
    )  # fmt: skip


def aura_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 10, 6), "timestep": TIMES, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    single = ("single_block", 0)
    double = ("double_block", 0)
    return {
        "aura": (aura, aura_inputs()),
        "aura, blocks around": (aura, aura_inputs() | replaced(double, single)),
    }
