"""Tiny models with random weights that ComfyUI's stock loaders accept, and latents and conditioning to sample them."""

from __future__ import annotations

import json

import comfy.ldm.flux.model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.wan.model
import comfy.ops
import comfy.sd
import safetensors.torch
import torch

_FACTORY = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}


def _flux():
    return comfy.ldm.flux.model.Flux(
        in_channels=16, out_channels=16, vec_in_dim=32, context_in_dim=48, hidden_size=256, mlp_ratio=4.0, num_heads=2,
        depth=2, depth_single_blocks=2, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True,
        guidance_embed=False, txt_ids_dims=[], **_FACTORY,
    ), None  # fmt: skip


def _sd3():
    return comfy.ldm.modules.diffusionmodules.mmdit.MMDiT(
        patch_size=2, depth=2, in_channels=16, out_channels=16, pos_embed_max_size=32, num_patches=1024,
        adm_in_channels=32, qk_norm="rms",
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}},
        **_FACTORY,
    ), None  # fmt: skip


def _wan():
    heads = 12
    model = comfy.ldm.wan.model.WanModel(
        model_type="t2v", patch_size=(1, 2, 2), text_len=16, in_dim=16, dim=96, ffn_dim=192, freq_dim=256, text_dim=48,
        out_dim=16, num_heads=heads, num_layers=2, qk_norm=True, cross_attn_norm=True, **_FACTORY,
    )  # fmt: skip
    return model, {"config": json.dumps({"transformer": {"num_heads": heads, "text_dim": 48, "freq_dim": 256}})}


FAMILIES = {"flux": _flux, "sd3": _sd3, "wan": _wan}
# Uneven over 2 and over 3 ranks: 15 x 7 = 105 patches, 5 x 3 x 3 = 45 patches, 7 text tokens.
LATENT_SHAPES = {"flux": (16, 30, 14), "sd3": (16, 30, 14), "wan": (16, 5, 6, 6)}
TEXT_TOKENS = 7


def flux_without_weights(hidden_size: int, num_heads: int, depth_single_blocks: int) -> torch.nn.Module:
    """A Flux of any size, of which only names and shapes are there: a test fills the weights of its file."""
    with torch.device("meta"):
        return comfy.ldm.flux.model.Flux(
            in_channels=16, out_channels=16, vec_in_dim=32, context_in_dim=48, hidden_size=hidden_size, mlp_ratio=4.0,
            num_heads=num_heads, depth=4, depth_single_blocks=depth_single_blocks, axes_dim=[16, 56, 56], theta=10000,
            patch_size=2, qkv_bias=True, guidance_embed=False, txt_ids_dims=[],
            operations=comfy.ops.disable_weight_init,
        )  # fmt: skip


def save(family: str, path) -> str:
    """Writes a model of the family, with random weights scaled so that output and input are of about equal size."""
    torch.manual_seed(0)
    model, metadata = FAMILIES[family]()
    weights = {}
    for name, value in model.state_dict().items():
        if value.dtype != torch.float32:
            weights[name] = value
        elif value.ndim < 2:
            weights[name] = (1.0 if "norm" in name and name.endswith(("weight", "scale")) else 0.0) + 0.1 * torch.randn(
                value.shape
            )
        else:
            weights[name] = torch.randn(value.shape) / value[0].numel() ** 0.5
    safetensors.torch.save_file(weights, path, metadata=metadata)
    return str(path)


def load(path: str):
    """The MODEL as UNETLoader makes it."""
    return comfy.sd.load_diffusion_model(path)


def latent(family: str, batch: int = 1) -> torch.Tensor:
    """An empty latent (B, C, ...)."""
    return torch.zeros((batch, *LATENT_SHAPES[family]))


def conditioning(seed: int, tokens: int = TEXT_TOKENS):
    """A random CONDITIONING in the form that a text encoder gives."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn((1, tokens, 48), generator=generator)
    return [[text, {"pooled_output": torch.randn((1, 32), generator=generator)}]]


def lora_weights(patcher):
    """A random LoRA on two layers of Flux."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for layer in ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"):
        rows, columns = patcher.model.diffusion_model.get_submodule(layer).weight.shape
        weights[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn((rows, 4), generator=generator) * 0.05
        weights[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn((4, columns), generator=generator) * 0.5
    return weights
