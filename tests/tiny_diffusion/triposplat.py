"""TripoSplat, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def triposplat():
    """Two blocks, and one of each refiner."""
    return build(
        "comfy.ldm.triposplat.model.LatentSeqMMFlowModel", q_token_length=15, in_channels=4, model_channels=12 * HEADS,
        cond_channels=20, out_channels=4, num_blocks=2, num_refiner_blocks=1, num_heads=HEADS, num_head_channels=12,
        cond2_channels=8,
    )  # fmt: skip


def triposplat_inputs():
    """15 splats, a camera, and a picture of 10 tokens, seen by two models."""
    given = {"x": [randn(2, 15, 4), randn(2, 1, 5)], "t": TIMES, "context": randn(2, 10, 20)}
    return given | {"ref_latents": [randn(2, 8, 2, 3)]}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "triposplat": (triposplat, triposplat_inputs()),
        "triposplat, a block changed": (changed(triposplat, after("blocks.0")), triposplat_inputs()),
    }
