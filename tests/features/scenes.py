"""A scene: a tiny MODEL of a family, made by ComfyUI's own classes, with all that a KSampler is given for it.

The models are made here, of loaders that keep no recipe, so they travel to the workers themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_patcher
import comfy.supported_models as supported
import controls
import sampling
import torch

import nodes as stock

SEED = 5
TEXT = 48
POOLED = 32
HEADS = 6

_FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": TEXT, "hidden_size": 12 * HEADS,
    "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
_HUNYUAN = {
    **{name: value for name, value in _FLUX.items() if name != "txt_ids_dims"}, "theta": 256, "patch_size": [1, 2, 2],
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [2, 2],
    "channel_mult": [1, 2], "transformer_depth": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 6, "use_spatial_transformer": True, "use_linear_in_transformer": False,
    "context_dim": TEXT, "adm_in_channels": None, "legacy": False, "use_temporal_attention": False, "num_heads": 4,
}  # fmt: skip

# {family: (ComfyUI's configuration, how the tiny module is made, shape of a latent without the batch)}.
FAMILIES: dict[str, tuple[Callable, dict[str, Any], tuple[int, ...]]] = {
    "flux2": (
        supported.Flux2,
        {
            "image_model": "flux2", **_FLUX, "in_channels": 128, "out_channels": 128, "patch_size": 1,
            "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "qkv_bias": False, "vec_in_dim": None,
            "axes_dim": [2, 4, 4, 2], "txt_ids_dims": [3],
        },
        (128, 15, 7),
    ),
    "qwen_image": (
        supported.QwenImage,
        {
            "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "attention_head_dim": 12,
            "num_attention_heads": HEADS, "joint_attention_dim": TEXT, "axes_dims_rope": (4, 4, 4),
        },
        (16, 1, 30, 14),
    ),
    "z_image": (
        supported.ZImage,
        {
            "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 48 * HEADS, "n_layers": 2,
            "n_refiner_layers": 1, "n_heads": HEADS, "multiple_of": 8, "ffn_dim_multiplier": 1.0, "qk_norm": True,
            "cap_feat_dim": TEXT, "axes_dims": [16, 16, 16], "axes_lens": [64, 64, 64], "z_image_modulation": True,
        },
        (16, 30, 14),
    ),
    "wan": (
        supported.WAN21_T2V,
        {
            "image_model": "wan2.1", "model_type": "t2v", "in_dim": 16, "dim": 12 * HEADS, "ffn_dim": 96,
            "freq_dim": 32, "text_dim": TEXT, "out_dim": 16, "num_heads": HEADS, "num_layers": 2,
        },
        (16, 5, 6, 6),
    ),
    "hunyuan_video": (
        supported.HunyuanVideo,
        {"image_model": "hunyuan_video", **_HUNYUAN},
        (16, 5, 6, 6),
    ),
    "ltxv": (
        supported.LTXV,
        {
            "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 12 * HEADS, "attention_head_dim": 12,
            "num_attention_heads": HEADS, "caption_channels": TEXT, "num_layers": 2,
        },
        (128, 5, 3, 3),
    ),
    "svd": (
        supported.SVD_img2vid,
        {
            **_UNET, "in_channels": 8, "num_classes": "sequential", "adm_in_channels": 768, "num_heads": -1,
            "num_head_channels": 16, "use_linear_in_transformer": True, "use_temporal_attention": True,
            "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True,
            "merge_strategy": "learned_with_images", "video_kernel_size": [3, 1, 1],
        },
        (4, 14, 12),
    ),
    "sd_inpaint": (supported.SD15, {**_UNET, "in_channels": 9}, (4, 14, 12)),
}  # fmt: skip

# Those that the ControlNets of controls.py fit.
STEERED = {"flux": (lambda: sampling.model("flux"), (16, 30, 14)), "sd": (controls.unet, (4, 14, 12))}


def shape_of(family: str) -> tuple[int, ...]:
    """Of a latent without the batch."""
    return STEERED[family][1] if family in STEERED else FAMILIES[family][2]


@functools.cache
def model(family: str):
    """The tiny MODEL of the family."""
    if family in STEERED:
        return STEERED[family][0]()
    kind, arguments, _ = FAMILIES[family]
    return built(kind, arguments)


def built(kind: Callable, arguments: dict[str, Any]):
    """A MODEL of this configuration of ComfyUI, with random weights that give an output of about the input's size."""
    config = kind({**arguments, "dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    made = config.get_model({})
    made.diffusion_model.load_state_dict(controls.random_weights(made.diffusion_model, 0))
    return comfy.model_patcher.CoreModelPatcher(made, torch.device("cpu"), torch.device("cpu"))


def conditioning(family: str, seed: int, tokens: int = 7) -> list:
    """A CONDITIONING as the family's text encoder makes it."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn((1, tokens, TEXT), generator=generator)
    about = {"pooled_output": torch.randn((1, POOLED), generator=generator)}
    if family == "ltxv":
        about["attention_mask"] = torch.tensor([[1] * (tokens - 2) + [0] * 2])
    return [[text, about]]


@dataclass(frozen=True)
class Scene:
    """What a KSampler is given. `guider`(model, positive, negative, cfg), if there is one, takes its place."""

    family: str
    model: Any
    positive: list
    negative: list
    latent: dict
    steps: int = 6
    cfg: float = 3.0
    sampler: str = "euler"
    guider: Callable | None = None

    @torch.inference_mode()
    def sample(self, on: Callable = lambda model: model) -> torch.Tensor:
        """The samples, of the model as `on` gives it."""
        patched = on(self.model)
        if self.guider is not None:
            return self._with_guider(self.guider(patched, self.positive, self.negative, self.cfg))
        out = stock.KSampler().sample(
            patched, SEED, self.steps, self.cfg, self.sampler, "simple", self.positive, self.negative, self.latent
        )
        return out[0]["samples"]

    def _with_guider(self, guider: Any) -> torch.Tensor:
        import comfy_extras.nodes_custom_sampler as custom

        sigmas = custom.BasicScheduler.execute(guider.model_patcher, "simple", self.steps, 1.0)[0]
        sampler = custom.KSamplerSelect.execute(self.sampler)[0]
        noise = custom.RandomNoise.execute(SEED)[0]
        return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, self.latent)[0]["samples"]


def scene(family: str, batch: int = 1) -> Scene:
    """The plain scene: an empty latent, one prompt each."""
    latent = {"samples": torch.zeros((batch, *shape_of(family)))}
    return Scene(family, model(family), conditioning(family, 1), conditioning(family, 2), latent)


def content(family: str, batch: int = 1) -> torch.Tensor:
    """A latent (B, C, ...) with something in it."""
    return torch.randn((batch, *shape_of(family)), generator=torch.Generator().manual_seed(7))


__all__ = ["FAMILIES", "SEED", "Scene", "built", "conditioning", "content", "model", "replace", "scene", "shape_of"]
