"""Tiny ControlNets, T2I adapters and GLIGEN with random weights, made by ComfyUI's loaders, and models for them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import comfy.cldm.cldm
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.gligen
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.t2i_adapter.adapter
import comfy.utils
import comfy_models
import safetensors.torch
import torch
from comfy.cldm.control_types import UNION_CONTROLNET_TYPES

import nodes as stock

_FACTORY = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
_FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 48, "hidden_size": 256,
    "mlp_ratio": 4.0, "num_heads": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
    "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [2, 2],
    "channel_mult": [1, 2], "transformer_depth": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 6, "use_spatial_transformer": True, "use_linear_in_transformer": False,
    "context_dim": 48, "adm_in_channels": None, "legacy": False, "use_temporal_attention": False,
    "dtype": torch.float32,
}  # fmt: skip


def random_weights(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A random state dict for the module, scaled so that output and input are of about equal size."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in module.state_dict().items():
        values = torch.randn(value.shape, generator=generator)
        if value.ndim >= 2:
            weights[name] = values / value[0].numel() ** 0.5
        else:
            weights[name] = (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * values
    return weights


def load(weights: dict[str, torch.Tensor]):
    """The CONTROL_NET that ControlNetLoader makes from a file with these weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "control.safetensors"
        safetensors.torch.save_file(weights, path)
        return comfy.controlnet.load_controlnet(str(path))


def flux_xlabs(seed: int = 3, depth: int = 1):
    """A ControlNet for Flux with a hint in pixels."""
    module = comfy.ldm.flux.controlnet.ControlNetFlux(depth=depth, depth_single_blocks=0, **_FLUX, **_FACTORY)
    weights = random_weights(module, seed)
    return load({name.replace("_norm.weight", "_norm.scale"): value for name, value in weights.items()})


def flux_union(seed: int = 4):
    """A union ControlNet for Flux with a hint in latents and control for all blocks, from a file in diffusers' form."""
    module = comfy.ldm.flux.controlnet.ControlNetFlux(
        latent_input=True, num_union_modes=4, control_latent_channels=3, depth=1, depth_single_blocks=1, **_FLUX,
        **_FACTORY,
    )  # fmt: skip
    weights = random_weights(module, seed)
    weights["img_in.weight"] = weights["img_in.weight"].contiguous()
    names = comfy.utils.flux_to_diffusers({"depth": 1, "depth_single_blocks": 1, "hidden_size": 256})
    theirs = {}
    for name, place in names.items():
        own, cut = (place, None) if isinstance(place, str) else place[:2]
        if own in weights and "ff.linear" not in name and "ff_context.linear" not in name:
            theirs[name] = (weights[own] if cut is None else weights[own].narrow(*cut)).contiguous().clone()
    kept = ("controlnet_blocks", "controlnet_single_blocks", "controlnet_mode_embedder")
    return load(theirs | {name: value for name, value in weights.items() if name.startswith(kept)})


def sd3(seed: int = 13):
    """A ControlNet for SD3, built without ComfyUI's loader, which requires a larger file."""
    module = comfy.cldm.mmdit.ControlNet(
        num_blocks=1, control_latent_channels=3, patch_size=2, depth=2, in_channels=16, pos_embed_max_size=32,
        num_patches=1024, adm_in_channels=32, qk_norm="rms",
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}},
        **_FACTORY,
    )  # fmt: skip
    module.load_state_dict(random_weights(module, seed))
    return comfy.controlnet.ControlNet(
        module, compression_ratio=1, latent_format=comfy.latent_formats.SD3(), load_device=torch.device("cpu")
    )


_QWEN = {
    "in_channels": 64, "num_attention_heads": 4, "attention_head_dim": 32, "joint_attention_dim": 48,
    "axes_dims_rope": (8, 12, 12),
}  # fmt: skip


def qwen_model():
    """A tiny Qwen-Image MODEL without a recipe, as from a loader that keeps none."""
    config = comfy.supported_models.QwenImage({**_QWEN, "num_layers": 2, "dtype": torch.float32})
    model = config.get_model({})
    model.diffusion_model.load_state_dict(random_weights(model.diffusion_model, 0))
    return comfy.model_patcher.CoreModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def qwen(seed: int = 14):
    """A ControlNet for Qwen-Image, built without ComfyUI's loader, which requires a larger file."""
    module = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(num_layers=1, **_QWEN, **_FACTORY)
    module.load_state_dict(random_weights(module, seed))
    return comfy.controlnet.ControlNet(
        module, compression_ratio=1, latent_format=comfy.latent_formats.Wan21(), load_device=torch.device("cpu"),
        extra_conds=[],
    )  # fmt: skip


def qwen_fun(seed: int = 15):
    """A "Fun" ControlNet for Qwen-Image, which uses layers of the model that it controls."""
    module = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        control_in_features=132, inner_dim=128, num_attention_heads=4, attention_head_dim=32, num_control_blocks=1,
        main_model_double=2, injection_layers=(0,), **_FACTORY,
    )  # fmt: skip
    module.load_state_dict(random_weights(module, seed))
    return comfy.controlnet.QwenFunControlNet(
        module, compression_ratio=1, latent_format=comfy.latent_formats.Wan21(), load_device=torch.device("cpu"),
        extra_conds=[],
    )  # fmt: skip


class NarrowVae:
    """A stand-in for a video VAE of 16 channels, with the methods that a ControlNet calls."""

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        """Encodes pixels (B, H, W, 3) as latents (B, 16, 1, H/8, W/8)."""
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([small * weight for weight in (1, -1, 0.5, 2, -0.5)] + [small[:, :1]], dim=1).unsqueeze(2)


def unet():
    """A tiny Stable Diffusion 1.5 MODEL without a recipe, as from a loader that keeps none."""
    config = comfy.supported_models.SD15(dict(_UNET))
    config.unet_config["num_heads"] = 4
    model = config.get_model({})
    model.diffusion_model.load_state_dict(random_weights(model.diffusion_model, 0))
    return comfy.model_patcher.CoreModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def unet_controlnet(seed: int = 5):
    """A ControlNet for the UNet."""
    arguments = {name: value for name, value in _UNET.items() if name not in ("out_channels", "dtype")}
    module = comfy.cldm.cldm.ControlNet(hint_channels=3, num_head_channels=64, **arguments, **_FACTORY)
    return load(random_weights(module, seed))


def unet_control_lora(seed: int = 6):
    """A ControlLora: low-rank changes to the weights of the model that it controls, and layers of its own."""
    arguments = {name: value for name, value in _UNET.items() if name not in ("out_channels", "dtype")}
    module = comfy.cldm.cldm.ControlNet(hint_channels=3, num_head_channels=64, **arguments, **_FACTORY)
    generator = torch.Generator().manual_seed(seed)
    weights = {"lora_controlnet": torch.tensor([])}
    for name, value in random_weights(module, seed).items():
        if name.startswith(("input_hint_block", "zero_convs", "middle_block_out")):
            weights[name] = value
        elif name.endswith("proj_in.weight"):
            place, (rows, columns) = name.removesuffix("weight"), value.flatten(1).shape
            weights[f"{place}up"] = torch.randn((rows, 4), generator=generator)
            weights[f"{place}down"] = torch.randn((4, columns), generator=generator)
    return load(weights)


def t2i_adapter(seed: int = 7):
    """A T2I adapter for the UNet."""
    module = comfy.t2i_adapter.adapter.Adapter(
        cin=192, channels=[64, 128, 256, 256], nums_rb=2, ksize=1, sk=True, use_conv=False
    )
    return load(random_weights(module, seed))


def gligen(seed: int = 8):
    """The GLIGEN model that GLIGENLoader makes for the UNet."""
    weights = {}
    places = {f"input_blocks.{n}.1": width for n, width in ((1, 64), (2, 64), (4, 128), (5, 128))}
    places["middle_block.1"] = 128
    places |= {f"output_blocks.{n}.1": width for n, width in enumerate((128, 128, 128, 64, 64, 64))}
    for place, width in places.items():
        fuser = comfy.gligen.GatedSelfAttentionDense(width, 48, width // 64, 64)
        for name, value in random_weights(fuser, seed + len(weights)).items():
            weights[f"{place}.transformer_blocks.0.fuser.{name}"] = value
        for gate in ("alpha_attn", "alpha_dense"):
            weights[f"{place}.transformer_blocks.0.fuser.{gate}"] = torch.tensor(1.0)
    for name, value in random_weights(comfy.gligen.PositionNet(48, 48), seed).items():
        weights[f"position_net.{name}"] = value
    model = comfy.gligen.load_gligen(weights)
    return comfy.model_patcher.CoreModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def hint(seed: int = 9) -> torch.Tensor:
    """An IMAGE (B, H, W, 3)."""
    return torch.rand((1, 240, 112, 3), generator=torch.Generator().manual_seed(seed))


def steered(*controls, positive=None, negative=None, vae=None, image=None):
    """(positive, negative) after ControlNetApplyAdvanced with each (ControlNet, strength, start, end) of `controls`."""
    positive = positive or comfy_models.conditioning(1)
    negative = negative or comfy_models.conditioning(2)
    for number, (control, strength, start, end) in enumerate(controls):
        positive, negative = stock.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, control, hint(9 + number) if image is None else image, strength, start, end, vae=vae
        )
    return positive, negative


def pixel_vae():
    """The VAE that VAELoader gives for "pixel_space"."""
    return stock.VAELoader().load_vae("pixel_space")[0]


UNION_TYPE = next(iter(UNION_CONTROLNET_TYPES))
