"""Flux and Flux2, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, build, inputs, randn
from .patches import control, replaced, skip

FLUX2 = {
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "qkv_bias": False, "guidance_embed": False,
    "vec_in_dim": None, "txt_ids_dims": [2],
}  # fmt: skip
REFERENCE = {"ref_latents": [randn(2, 4, 4, 6)], "ref_latents_method": "index_timestep_zero"}


def flux(**changes):
    """Two double and two single blocks."""
    arguments = {
        "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS,
        "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    }  # fmt: skip
    return build("comfy.ldm.flux.model.Flux", **arguments | changes)


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    total = 7 + 15
    mask = randn(2, total, total)
    reference = {"ref_latents": [randn(2, 4, 4, 6)], "ref_latents_method": "index"}
    single = ("single_block", 0)
    double = ("double_block", 0)
    last = ("double_block", 1)
    return {
        "flux": (flux, inputs("flux")),
        "flux, one text token per rank or two": (flux, inputs("flux", text=4)),
        "flux, mask": (flux, inputs("flux") | {"attention_mask": mask}),
        "flux, reference latent": (flux, inputs("flux") | reference),
        "flux, one modulation for all (Flux2)": (lambda: flux(**FLUX2), inputs("flux")),
        "flux, ControlNet": (flux, inputs("flux") | control(72)),
        "flux, ControlNet and reference latent": (
            flux,
            inputs("flux") | control(72) | REFERENCE | {"ref_latents_method": "offset"},
        ),
        "flux, reference latent at time 0": (lambda: flux(**FLUX2), inputs("flux") | REFERENCE),
        "flux, blocks around": (flux, inputs("flux") | replaced(double, single)),
        "flux, layers skipped, the first among them": (flux, inputs("flux") | replaced(double, single, by=skip)),
        "flux, blocks around, ControlNet, reference latent at time 0": (
            lambda: flux(**FLUX2),
            inputs("flux") | replaced(last, single) | control(72) | REFERENCE,
        ),
    }
