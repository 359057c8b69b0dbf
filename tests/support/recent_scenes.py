"""Scenes (model, conditioning, latent) of the latest model families, with tiny models."""

from __future__ import annotations

import functools

import comfy.nested_tensor
import comfy.supported_models as supported
import torch
from features.scenes import HEADS, Scene, built, replace

TEXT = 20
_BLOCKS = {"num_layers": 2, "attention_head_dim": 12, "num_attention_heads": HEADS}
_PIXELS = {
    "num_groups": HEADS, "hidden_size": 12 * HEADS, "pixel_hidden_size": 4, "pixel_attn_hidden_size": 48,
    "pixel_num_groups": 4, "patch_depth": 3, "pixel_depth": 1, "patch_size": 4, "txt_embed_dim": TEXT,
    "txt_max_length": 16,
}  # fmt: skip
_LANGUAGE = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2 * HEADS,
    "num_key_value_heads": HEADS, "head_dim": 12, "rope_dims": [2, 2, 2],
}  # fmt: skip
_SIGHT = {"hidden_size": 24, "num_heads": 2, "intermediate_size": 32, "depth": 1, "num_position_embeddings": 16}

MODELS = {
    "krea2": (
        supported.Krea2,
        {
            "image_model": "krea2", "features": 16 * HEADS, "tdim": 32, "txtdim": TEXT, "heads": HEADS, "kvheads": 3,
            "multiplier": 1, "layers": 2, "channels": 16, "txtlayers": 3, "txtheads": 2, "txtkvheads": 1,
        },
    ),
    "lens": (
        supported.Lens,
        {
            **_BLOCKS, "image_model": "lens", "in_channels": 128, "out_channels": 32, "enc_hidden_dim": TEXT,
            "axes_dims_rope": (4, 4, 4), "selected_layer_index": (1, 2),
        },
    ),
    "joyimage": (
        supported.JoyImage,  # has a fixed head dim
        {
            "image_model": "joyimage", "in_channels": 16, "hidden_size": 128 * 2, "num_attention_heads": 2,
            "text_dim": TEXT, "mlp_width_ratio": 1.0, "num_layers": 2,
        },
    ),
    "mage_flow": (
        supported.MageFlow,
        {**_BLOCKS, "image_model": "mage_flow", "joint_attention_dim": TEXT, "axes_dims_rope": (4, 4, 4)},
    ),
    "pixeldit": (supported.PixelDiTT2I, {**_PIXELS, "image_model": "pixeldit_t2i"}),
    "pid": (
        supported.PiD,
        {**_PIXELS, "image_model": "pid", "lq_latent_channels": 4, "lq_hidden_dim": 16, "lq_num_res_blocks": 1},
    ),
    "hidream_o1": (
        supported.HiDreamO1,
        {"image_model": "hidream_o1", "text_config_overrides": _LANGUAGE, "vision_config_overrides": _SIGHT},
    ),
    "minimax_h3": (
        supported.MiniMaxH3,
        {
            "image_model": "minimax_h3", "hidden_size": 72, "num_layers": 2, "token_refiner_num_layers": 1,
            "num_attention_heads": HEADS, "attention_head_dim": 16, "ffn_hidden_size": 96, "text_dim": TEXT,
            "timestep_input_dim": 32, "time_embed_hidden_size": 48, "time_embed_dim": 24, "rope_inv_freq_len": 2,
        },
    ),
    "seedvr2": (
        supported.SeedVR2,
        {
            "image_model": "seedvr2", "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "swiglu", "vid_dim": 72,
            "txt_in_dim": TEXT, "heads": HEADS, "head_dim": 24, "mm_layers": 1, "expand_ratio": 2, "rope_dim": 24,
            "vid_out_norm": True,
        },
    ),
    "wan_dancer": (
        supported.WAN22_WanDancer,
        {
            "image_model": "wan2.1", "model_type": "wandancer", "in_dim": 16, "dim": 24 * HEADS, "ffn_dim": 96,
            "freq_dim": 32, "text_dim": TEXT, "out_dim": 16, "num_heads": HEADS, "num_layers": 2,
            "audio_inject_layers": [0, 1], "music_dim": 24, "music_heads": 2, "music_latent_dim": 24,
        },
    ),
}  # fmt: skip


@functools.cache
def model(family: str):
    """The MODEL of a tiny model of the family."""
    return built(*MODELS[family])


def _numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _scene(family: str, latent: torch.Tensor, width: int = TEXT, **conds) -> Scene:
    """A scene with two random prompts; `conds` are further entries of both conditionings."""
    positive, negative = ([[_numbers(1, 7, width, seed=seed), dict(conds)]] for seed in (1, 2))
    return Scene(family, model(family), positive, negative, {"samples": latent}, steps=4)


def _speaking(ids: list[int]) -> list:
    return [[torch.zeros(1, 1, 1), {"text_input_ids": torch.tensor([ids])}]]


def scene(family: str) -> Scene:
    """The inputs of a KSampler for the family."""
    picture, film = torch.zeros(1, 16, 1, 10, 6), torch.zeros(1, 16, 3, 8, 8)
    mask = {"attention_mask": torch.tensor([[1] * 5 + [0] * 2])}
    reference = {"reference_latents": [_numbers(1, 16, 1, 4, 6)]}
    match family:
        case "krea2":
            return _scene(family, picture, 3 * TEXT, **reference, reference_latents_method="index_timestep_zero")
        case "lens":
            return _scene(family, torch.zeros(1, 128, 5, 3), 2 * TEXT, **mask)
        case "joyimage":
            return _scene(family, picture, **reference)
        case "mage_flow":
            return _scene(family, torch.zeros(1, 128, 5, 3), **mask, reference_latents=[_numbers(1, 128, 2, 3)])
        case "pixeldit":
            return _scene(family, torch.zeros(1, 3, 20, 12))
        case "pid":
            low = {"lq_latent": _numbers(1, 4, 3, 2), "degrade_sigma": torch.tensor([0.2])}
            return _scene(family, torch.zeros(1, 3, 20, 12), **low)
        case "hidream_o1":
            positive, negative = _speaking([5, 6, 7, 8, 9, 151673]), _speaking([5, 6, 7, 151673])
            return replace(_scene(family, torch.zeros(1, 3, 160, 96)), positive=positive, negative=negative)
        case "minimax_h3":
            both = comfy.nested_tensor.NestedTensor((torch.zeros(1, 24, 3, 10, 6), torch.zeros(1, 32, 2, 6)))
            return _scene(family, both)
        case "seedvr2":
            return _scene(family, film, condition=_numbers(1, 17, 3, 8, 8))
        case "wan_dancer":
            return _scene(family, film, audio_embed=_numbers(1, 30, 35), fps=25)
    raise ValueError(family)
