"""A Stable Diffusion 3.5 checkpoint with random weights, as small as ComfyUI's own loader takes it.

The model's size is told from its weights, so it is tiny; CLIP-L has one size only (0.25 GB at 16 bits); the VAE is a
TAESD. The other families cannot be made small: ComfyUI builds their text encoders (T5 XXL, UMT5 XXL, Llama 3 8B,
Qwen2.5 VL 7B, Mistral 3 24B) and the UNets of SDXL and SVD in one size, whatever the file has.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.clip_model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ops
import comfy.sd1_clip
import comfy.taesd.taesd
import safetensors.torch
import torch

_FACTORY = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}


def _model() -> torch.nn.Module:
    return comfy.ldm.modules.diffusionmodules.mmdit.MMDiT(
        patch_size=2, depth=2, in_channels=16, out_channels=16, pos_embed_max_size=32, num_patches=1024,
        adm_in_channels=2048, qk_norm="rms",
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
        **_FACTORY,
    )  # fmt: skip


def _text_encoder() -> torch.nn.Module:
    config = Path(comfy.sd1_clip.__file__).parent / "sd1_clip_config.json"
    return comfy.clip_model.CLIPTextModel(json.loads(config.read_text()), **_FACTORY)


PARTS = {
    "model.diffusion_model.": _model,
    "text_encoders.clip_l.transformer.": _text_encoder,
    "first_stage_model.": lambda: comfy.taesd.taesd.TAESD(latent_channels=16),
}


def save_sd35(path: Path) -> None:
    """Write the checkpoint; weights are drawn so that every layer gives about the size it is given."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for prefix, build in PARTS.items():
        for name, value in build().state_dict().items():
            if not value.is_floating_point() or value.ndim == 0:
                weights[prefix + name] = value
            elif value.ndim < 2:
                is_scale = name.endswith("weight") and "norm" in name
                weights[prefix + name] = torch.full(value.shape, float(is_scale), dtype=torch.float16)
            else:
                drawn = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
                weights[prefix + name] = drawn.half()
    safetensors.torch.save_file(weights, path)
