"""Scenes with tiny model patches (MODEL_PATCH, as from ModelPatchLoader), applied by ComfyUI's nodes.

Patches loaded from real files have fixed sizes of gigabytes; these are the same classes, built small.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import comfy.ldm.lumina.controlnet
import comfy.ldm.wan.uni3c
import comfy.ldm.wan.vae
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy_extras.nodes_model_patch as nodes
import controls
import torch
from features.scenes import FAMILIES, HEADS, Scene, built, replace, scene, shape_of

_FACTORY = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.manual_cast}


@functools.cache
def video_vae():
    """A VAE as VAELoader makes for Wan and Qwen-Image: 16 channels, one latent for 8 x 8 pixels and 4 frames."""
    module = comfy.ldm.wan.vae.WanVAE(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]
    )
    return comfy.sd.VAE(sd=controls.random_weights(module, 2))


def wrapped(module: torch.nn.Module, seed: int = 3):
    """A MODEL_PATCH that holds the module with random weights."""
    module.load_state_dict(controls.random_weights(module, seed))
    return comfy.model_patcher.CoreModelPatcher(module, torch.device("cpu"), torch.device("cpu"))


def film(frames: int, height: int, width: int, seed: int = 9) -> torch.Tensor:
    """An IMAGE (frames, H, W, 3)."""
    return torch.rand((frames, height, width, 3), generator=torch.Generator().manual_seed(seed))


def _pixels(family: str, per_token: int = 8) -> tuple[int, int]:
    height, width = shape_of(family)[-2:]
    return per_token * height, per_token * width


@functools.cache
def _z_image_model():
    kind, arguments, _ = FAMILIES["z_image"]
    return built(kind, {**arguments, "n_layers": 6, "n_refiner_layers": 2})


def z_image() -> Scene:
    """Z-Image with as many refiners as its ControlNets have, and so many layers that two control layers take effect."""
    return replace(scene("z_image"), model=_z_image_model())


def z_image_fun(layers: int = 6, inpaint: bool = False, broken: bool = False) -> Scene:
    """Z-Image Fun ControlNet: of six layers (version 1), or of 15, with noise refiners of its own (version 2)."""
    plain = z_image()
    module = comfy.ldm.lumina.controlnet.ZImage_Control(
        dim=48 * HEADS, n_heads=HEADS, n_kv_heads=HEADS, multiple_of=8, ffn_dim_multiplier=1.0, n_control_layers=layers,
        control_in_dim=3, additional_in_dim=4 if inpaint else 0, refiner_control=inpaint, broken=broken, **_FACTORY,
    )  # fmt: skip
    size = _pixels("z_image", 1)
    mask = torch.zeros((1, *size))
    mask[:, : size[0] // 2] = 1
    more = {"inpaint_image": film(1, *size, seed=4), "mask": mask} if inpaint else {}
    patched = nodes.ZImageFunControlnet().diffsynth_controlnet(
        plain.model, wrapped(module), controls.pixel_vae(), film(1, *size), 0.8, **more
    )
    return replace(plain, model=patched[0])


def qwen_diffsynth(mask: bool = False) -> Scene:
    """Qwen-Image with a DiffSynth ControlNet; with `mask` one for inpainting."""
    plain = scene("qwen_image")
    module = nodes.QwenImageBlockWiseControlNet(2, additional_in_dim=4 if mask else 0, dim=12 * HEADS, **_FACTORY)
    size = _pixels("qwen_image")
    more = {"mask": (film(1, *size, seed=5)[..., 0] > 0.5).float()} if mask else {}
    patched = nodes.QwenImageDiffsynthControlnet().diffsynth_controlnet(
        plain.model, wrapped(module), video_vae(), film(1, *size), 0.8, **more
    )
    return replace(plain, model=patched[0])


def uso_style(steer: bool = True) -> Scene:
    """Flux with USO Style Reference: tokens of a picture's style in front of the text."""
    plain = replace(scene("flux"), cfg=1.0)
    if not steer:
        return plain
    module = nodes.SigLIPMultiFeatProjModel(
        siglip_token_nums=9, style_token_nums=3, siglip_token_dims=16, hidden_size=256, **_FACTORY
    )
    seen = torch.randn((1, 24, 9, 16), generator=torch.Generator().manual_seed(6))
    picture = SimpleNamespace(all_hidden_states=seen, penultimate_hidden_states=seen[:, -2])
    patched = nodes.USOStyleReference().apply_patch(plain.model, wrapped(module), picture)
    return replace(plain, model=patched[0])


def wan_uni3c(start: float = 0.0, end: float = 1.0) -> Scene:
    """Wan with a Uni3C ControlNet: a rendered video of the camera path."""
    plain = scene("wan")
    module = comfy.ldm.wan.uni3c.WanUni3CControlnet(
        conv_out_dim=24, dim=36, ffn_dim=48, num_heads=2, num_layers=2, time_embed_dim=12 * HEADS,
        out_proj_dim=12 * HEADS, mid_channels=8, **_FACTORY,
    )  # fmt: skip
    patched = nodes.WanUni3CControlnetApply().apply_patch(
        plain.model, wrapped(module), video_vae(), film(17, *_pixels("wan")), 0.7, start, end
    )
    return replace(plain, model=patched[0])
