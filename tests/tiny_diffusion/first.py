"""Flux, SD3 and Wan, tiny, and inputs for them."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn


def flux(**changes):
    """Two double and two single blocks."""
    arguments = {
        "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS,
        "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    }  # fmt: skip
    return build("comfy.ldm.flux.model.Flux", **arguments | changes)


def sd3(**changes):
    """Two joint blocks, the first of which attends twice (as 3.5 medium's do)."""
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 20, "out_features": 64 * HEADS}}
    arguments = {
        "input_size": None, "patch_size": 2, "in_channels": 4, "depth": HEADS, "num_blocks": 2, "mlp_ratio": 1.0,
        "adm_in_channels": 16, "context_embedder_config": embedder, "qk_norm": "rms", "x_block_self_attn_layers": [0],
        "pos_embed_max_size": None, "num_patches": None,
    }  # fmt: skip
    return build("comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper", **arguments | changes)


def wan(**changes):
    """Two blocks of Wan 2.1, text to video."""
    arguments = {
        "model_type": "t2v", "in_dim": 4, "dim": 12 * HEADS, "ffn_dim": 96, "freq_dim": 32, "text_dim": 20,
        "out_dim": 4, "num_heads": HEADS, "num_layers": 2,
    }  # fmt: skip
    return build("comfy.ldm.wan.model.WanModel", **arguments | changes)


def inputs(family, text=7, height=10, width=6, batch=2):
    """Keyword arguments of one forward. Flux and SD3: (height / 2) (width / 2) tokens; Wan: three frames of them."""
    generator = torch.Generator().manual_seed(text)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    given = {"timestep": torch.rand(batch, generator=generator), "context": randn(batch, text, 20)}
    if family == "wan":
        return {"x": randn(batch, 4, 3, height, width), **given}
    given |= {"x": randn(batch, 4, height, width), "y": randn(batch, 16)}
    if family == "sd3":
        given["timesteps"] = given.pop("timestep")
    return given | ({"guidance": torch.full((batch,), 3.5)} if family == "flux" else {})


FLUX2 = {
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "qkv_bias": False, "guidance_embed": False,
    "vec_in_dim": None, "txt_ids_dims": [2],
}  # fmt: skip


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    total = 7 + 15
    # Additive: ComfyUI's sub-quadratic attention, which the CPU gets, would add a bool mask as 0 and 1.
    mask = randn(2, total, total)
    reference = {"ref_latents": [randn(2, 4, 4, 6)], "ref_latents_method": "index"}
    to_video = {"clip_fea": randn(2, 11, 1280)}
    return {
        "flux": (flux, inputs("flux")),
        "flux, one text token per rank or two": (flux, inputs("flux", text=4)),
        "flux, mask": (flux, inputs("flux") | {"attention_mask": mask}),
        "flux, reference latent": (flux, inputs("flux") | reference),
        "flux, one modulation for all (Flux2)": (lambda: flux(**FLUX2), inputs("flux")),
        "sd3": (sd3, inputs("sd3")),
        "sd3, odd size": (sd3, inputs("sd3", text=5, height=8, width=14)),
        "wan": (wan, inputs("wan")),
        "wan, reference latent": (
            lambda: wan(in_dim_ref_conv=4),
            inputs("wan") | {"reference_latent": randn(2, 4, 10, 6)},
        ),
        "wan, image to video": (lambda: wan(model_type="i2v"), inputs("wan", height=6) | to_video),
    }
