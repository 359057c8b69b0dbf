"""Krea 2, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def krea():
    """Two blocks, with fewer heads of keys, and a text of three layers."""
    return build(
        "comfy.ldm.krea2.model.SingleStreamDiT", features=16 * HEADS, tdim=32, txtdim=20, heads=HEADS, kvheads=3,
        multiplier=1, layers=2, channels=4, txtlayers=3, txtheads=2, txtkvheads=1,
    )  # fmt: skip


def krea_inputs(text=7):
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 1, 10, 6), "timesteps": TIMES, "context": randn(2, text, 60)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    reference = randn(2, 4, 1, 4, 6)
    at_zero = {"ref_latents": [reference], "ref_latents_method": "index_timestep_zero"}
    return {
        "krea": (krea, krea_inputs()),
        "krea, reference latent": (krea, krea_inputs(5) | at_zero | {"ref_latents_method": "index"}),
        "krea, reference latent at time 0": (krea, krea_inputs() | at_zero),
        "krea, a block changed": (changed(krea, after("blocks.0")), krea_inputs()),
    }
