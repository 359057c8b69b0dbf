"""Samples the tiny trained model that comes with the pack, in this process: prompts, latents and pictures."""

from __future__ import annotations

import functools
from pathlib import Path

import comfy.sd
import comfy.utils
import torch
from compact_parallel.nodes.demo_encoding import ATTRIBUTES, choices_to_indices, encode

import nodes as stock

MODELS = Path(__file__).resolve().parents[2] / "workflows" / "models"
CFG = 3.0


@functools.cache
def model():
    """The MODEL as UNETLoader makes it."""
    return comfy.sd.load_diffusion_model(str(MODELS / "diffusion_models" / "compact_parallel_tiny.safetensors"))


def model_for(size: int):
    """The MODEL for pictures of `size` pixels. It was trained at 512; for other sizes positions are scaled to those."""
    if size == 512:
        return model()
    scaled, scale = model().clone(), 31 / (size / 16 - 1)
    scaled.set_model_rope_options(scale, 0.0, scale, 0.0, 1.0, 0.0)
    return scaled


@functools.cache
def vae():
    """The VAE as VAELoader makes it."""
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(MODELS / "vae" / "compact_parallel_tiny_vae.safetensors")))


def prompt(seed: int) -> dict[str, str]:
    """Choices for the demo prompt that depend on the seed."""
    return {name: values[(seed * (7 + i)) % len(values)] for i, (name, values) in enumerate(ATTRIBUTES.items())}


def conditioning(**choices: str):
    """The CONDITIONING of the demo prompt node."""
    tokens, pooled = encode(choices_to_indices(**choices))
    return [[tokens, {"pooled_output": pooled}]]


def sample(patcher, seed: int, *, size: int = 512, steps: int = 20, sampler: str = "euler") -> torch.Tensor:
    """KSampler's samples (1, 16, size / 8, size / 8) for the seed's prompt."""
    return sample_prompt(patcher, prompt(seed), seed=seed, size=size, steps=steps, sampler=sampler)


@torch.inference_mode()
def sample_prompt(
    patcher, choices: dict[str, str], *, seed: int, size: int = 512, steps: int = 20, sampler: str = "euler"
) -> torch.Tensor:
    """KSampler's samples (1, 16, size / 8, size / 8) for the choices of a demo prompt."""
    latent = {"samples": torch.zeros((1, 16, size // 8, size // 8))}
    positive, negative = conditioning(**choices), conditioning()
    out = stock.KSampler().sample(patcher, seed, steps, CFG, sampler, "simple", positive, negative, latent)
    return out[0]["samples"]


@torch.inference_mode()
def picture(samples: torch.Tensor) -> torch.Tensor:
    """The decoded picture (1, H, W, 3) in 0..1."""
    return vae().decode(samples).clamp(0, 1)
