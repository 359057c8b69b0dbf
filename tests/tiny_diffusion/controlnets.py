"""ControlNets: {name of the case: (build, keyword arguments of one forward)}, two batch entries."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .unet import HEADS as UNET_HEADS

TYPES = 4


def flux(**changes):
    """Two double blocks and one single block; a hint in latents and a union of kinds, or in pixels."""
    arguments = {
        "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS,
        "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 1, "axes_dim": [4, 4, 4],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
        "latent_input": True, "num_union_modes": TYPES, "control_latent_channels": 4,
    }  # fmt: skip
    return build("comfy.ldm.flux.controlnet.ControlNetFlux", **arguments | changes)


def flux_inputs():
    """A picture of 15 tokens, a text and a hint in latents."""
    given = {"x": randn(2, 4, 10, 6), "timesteps": TIMES, "context": randn(2, 7, 20), "y": randn(2, 16)}
    return given | {"guidance": torch.full((2,), 3.5), "hint": randn(2, 4, 10, 6, seed=5)}


def qwen():
    """Two blocks of Qwen-Image's ControlNet."""
    return build(
        "comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel", in_channels=16, out_channels=4, num_layers=2,
        attention_head_dim=12, num_attention_heads=HEADS, joint_attention_dim=20, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip


def qwen_inputs():
    """A picture of 15 tokens, a text and a hint in latents."""
    given = {"x": randn(2, 4, 1, 10, 6), "timesteps": TIMES, "context": randn(2, 7, 20)}
    return given | {"hint": randn(2, 4, 1, 10, 6, seed=5)}


def sd3():
    """Two joint blocks, the first of which attends twice."""
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 20, "out_features": 64 * HEADS}}
    module = build(
        "comfy.cldm.mmdit.ControlNet", num_blocks=2, control_latent_channels=4, patch_size=2, in_channels=4,
        depth=HEADS, mlp_ratio=1.0, adm_in_channels=16, context_embedder_config=embedder, qk_norm="rms",
        x_block_self_attn_layers=[0], pos_embed_max_size=8, num_patches=64, input_size=None,
    )  # fmt: skip
    module.pos_embed.copy_(randn(*module.pos_embed.shape))  # a file has them, the class leaves them open
    return module


def sd3_inputs():
    """A picture of 15 tokens, a text and a hint in latents."""
    given = {"x": randn(2, 4, 10, 6), "timesteps": TIMES, "context": randn(2, 7, 20), "y": randn(2, 16)}
    return given | {"hint": randn(2, 4, 10, 6, seed=5)}


def sd35(double_y_emb: bool):
    """Two blocks of Stability's ControlNets for SD3.5 (`double_y_emb`: those for the 8B model)."""
    return build(
        "comfy.cldm.dit_embedder.ControlNetEmbedder", img_size=None, patch_size=2, in_chans=4, attention_head_dim=12,
        num_attention_heads=HEADS, adm_in_channels=16, num_layers=2, main_model_double=4, double_y_emb=double_y_emb,
        device=None,
    )  # fmt: skip


def unet(**changes):
    """Three resolutions, transformers at two of them."""
    arguments = {
        "image_size": 32, "in_channels": 4, "model_channels": 32, "hint_channels": 3, "num_res_blocks": [1, 1, 1],
        "channel_mult": (1, 2, 2), "num_heads": UNET_HEADS, "use_spatial_transformer": True,
        "transformer_depth": [1, 1, 0], "transformer_depth_middle": 1, "context_dim": 20, "legacy": False,
    }  # fmt: skip
    module = build("comfy.cldm.cldm.ControlNet", **arguments | changes)
    list(module.input_hint_block.parameters())[-2].mul_(1e-6)  # so that the hint does not drown the picture
    return module


def unet_inputs(height=16, width=10):
    """A picture, a text and a hint in pixels."""
    given = {"x": randn(2, 4, height, width), "timesteps": TIMES * 1000, "context": randn(2, 7, 20)}
    return given | {"hint": randn(2, 3, 8 * height, 8 * width, seed=5)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    pixels = {"latent_input": False, "num_union_modes": 0, "control_latent_channels": 16}
    in_pixels = {"hint": randn(2, 3, 80, 48, seed=5)}
    union = {"union_controlnet_num_control_type": TYPES, "model_channels": 320, "num_res_blocks": [1, 1]}
    union |= {"channel_mult": (1, 1), "transformer_depth": [0, 1], "num_classes": "sequential", "adm_in_channels": 16}
    return {
        "flux, union": (flux, flux_inputs() | {"control_type": [2]}),
        "flux, union of no kind": (flux, flux_inputs() | {"control_type": []}),
        "flux, hint in pixels": (lambda: flux(**pixels, depth_single_blocks=0), flux_inputs() | in_pixels),
        "qwen": (qwen, qwen_inputs()),
        "sd3": (sd3, sd3_inputs()),
        "sd3.5": (lambda: sd35(False), sd3_inputs()),
        "sd3.5, 8B": (lambda: sd35(True), sd3_inputs()),
        "unet": (unet, unet_inputs()),
        "unet, odd at every resolution": (unet, unet_inputs(height=21, width=7)),
        "unet, one row at the lowest resolution, or two": (unet, unet_inputs(height=9, width=5)),
        "unet xl, union": (lambda: unet(**union), unet_inputs() | {"control_type": [1], "y": randn(2, 16)}),
    }
