"""SeedVR2, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn


def seedvr(large=False, **changes):
    """Two blocks of the small model, or of the large one, which is known by its width."""
    arguments = {
        "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "swiglu", "vid_dim": 72, "txt_in_dim": 20, "heads": HEADS,
        "head_dim": 24, "mm_layers": 1, "expand_ratio": 2, "rope_dim": 24, "vid_out_norm": not large or None,
        "rope_type": "rope3d" if large else "mmrope3d",
    }  # fmt: skip
    module = build("comfy.ldm.seedvr.model.NaDiT", **arguments | changes)
    for block in module.blocks if large else ():
        block.version = block.attn.version_7b = True
    return module


def seedvr_inputs(films=2):
    """Films of three frames of 15 tokens, and a text each."""
    given = {"x": randn(films, 16, 3, 10, 6), "condition": randn(films, 17, 3, 10, 6), "context": randn(films, 7, 20)}
    options = {"cond_or_uncond": list(range(films))}
    return given | {"timestep": torch.tensor([300.0, 800.0])[:films], "transformer_options": options}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "seedvr": (seedvr, seedvr_inputs()),
        "seedvr, large, one film": (lambda: seedvr(large=True, mlp_type="normal"), seedvr_inputs(films=1)),
    }
