"""A small model that the stock loader detects as Stable Diffusion 1.5, and latents and conditioning to sample it.

It has the widths of the real model, by which ComfyUI detects it, but only two resolutions and few blocks.
"""

from __future__ import annotations

import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.ops
import comfy.sd
import safetensors.torch
import torch

# The rows at the lower resolution (three and four on two ranks) are uneven over 2 and over 3 ranks, and those at the
# higher one are odd.
LATENT_SHAPE = (4, 13, 12)


def save(path) -> str:
    """Writes the model, with random weights scaled so that output and input are of about equal size."""
    model = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1, 1], channel_mult=(1, 1),
        num_heads=8, use_spatial_transformer=True, transformer_depth=[1, 0], transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 0, 0], context_dim=768, legacy=False, dtype=torch.float32, device="cpu",
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in model.state_dict().items():
        scale = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
        scale *= 0.5 if name.startswith("out.2") else 1.0
        around = float(value.ndim < 2 and name.endswith("weight"))
        weights[name] = around + scale * torch.randn(value.shape, generator=generator)
    safetensors.torch.save_file(weights, path)
    return str(path)


def load(path: str):
    """The MODEL as UNETLoader makes it."""
    return comfy.sd.load_diffusion_model(path)


def latent(batch: int = 1) -> dict:
    """An empty LATENT."""
    return {"samples": torch.zeros((batch, *LATENT_SHAPE))}


def conditioning(seed: int, tokens: int = 7):
    """A random CONDITIONING in the form that a text encoder gives."""
    text = torch.randn((1, tokens, 768), generator=torch.Generator().manual_seed(seed))
    return [[text, {}]]
