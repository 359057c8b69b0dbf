"""Writes the files that a prompt's loaders ask for: models with tiny random weights, and input pictures."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.cldm.dit_embedder
import comfy.ldm.ace.vae.music_dcae_pipeline
import comfy.ldm.audio.autoencoder
import comfy.ldm.hunyuan3d.vae
import comfy.ldm.mage_flow.vae
import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.model_detection
import comfy.ops
import comfy.supported_models
import comfy.taesd.taehv
import comfy.taesd.taesd
import comfy.utils
import safetensors.torch
import torch
from PIL import Image

from .models import Tiny, tiny
from .tiny_weights import KEY

Prompt = dict[str, dict[str, Any]]
Weights = dict[str, torch.Tensor]
PICTURE_SIZE = (192, 128)
_MODELS = {"unet_name": "diffusion_models", "ckpt_name": "checkpoints"}
_CLIP_NAMES = ("clip_name", "clip_name1", "clip_name2", "clip_name3", "clip_name4")
_LORA_LAYERS = 4
_LORA_RANK = 4
_LARGE = 20_000_000
"""A VAE with more weights than this is written in float16."""
_MAGE = {"dconv_encoder.": "student.dconv_encoder.", "decoder_model.": "pipeline."}
"""Prefixes of the weights of Mage's VAE: in ComfyUI's module -> in its file."""


def files_of(prompt: Prompt, input_name: str, kind: str = "") -> list[str]:
    """The values of an input over all nodes of the prompt whose class name contains `kind`."""
    nodes = (node for node in prompt.values() if kind in node["class_type"])
    return [*dict.fromkeys(value for node in nodes if isinstance(value := node["inputs"].get(input_name), str))]


def write_files(prompt: Prompt, folder: Path) -> set[str]:
    """Writes all files that the prompt asks for under ComfyUI's base directory `folder`. Returns the families whose
    sizes ComfyUI does not detect from the weights. Raises KeyError for a file that is in no table of tiny sizes."""
    told, models = set(), {}
    for name, place in _MODELS.items():
        for file in files_of(prompt, name):
            models[file] = tiny(file)
            weights, metadata = _model(file, models[file], checkpoint=place == "checkpoints")
            _save(weights, folder / "models" / place / file, metadata)
            told |= {models[file].family} if "family" in metadata else set()
    texts = [model.text for model in models.values() if model.text]
    for name in _CLIP_NAMES:
        for file in files_of(prompt, name, "CLIPLoader"):
            _save({}, folder / "models" / "text_encoders" / file, {"text": texts[0]})
    for file in files_of(prompt, "clip_name", "CLIPVisionLoader"):
        _save({}, folder / "models" / "clip_vision" / file, {"vision": {"width": 1280, "tokens": 257, "embeds": 1024}})
    for file in files_of(prompt, "vae_name"):
        if file != "pixel_space":
            _save(_vae(file), folder / "models" / "vae" / file)
    for file in files_of(prompt, "lora_name"):
        _save(_lora(file, next(iter(models.values()))), folder / "models" / "loras" / file)
    for file in files_of(prompt, "control_net_name"):
        _save(_sd35_controlnet(file), folder / "models" / "controlnet" / file)
    for file in files_of(prompt, "image", "LoadImage"):
        _picture(file).save(_made(folder / "input" / file))
    return told


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save(weights: Weights, path: Path, said: dict[str, Any] | None = None) -> None:
    """Writes a safetensors file; `said` is its metadata for the pack tiny_weights."""
    held = weights or {"empty": torch.zeros(1)}
    safetensors.torch.save_file(held, _made(path), metadata={KEY: json.dumps(said)} if said else None)


def _model(file: str, model: Tiny, *, checkpoint: bool) -> tuple[Weights, dict[str, Any]]:
    """The weights of a diffusion model, or of a checkpoint with its VAE, and the metadata for tiny_weights."""
    made = random_weights(_module(model), file)
    said = {key: value for key, value in (("text", model.text), ("vision", model.vision)) if checkpoint and value}
    if not _is_detected(made, model):
        said |= {"family": model.family, "sizes": model.config}
    prefix = _config(model).__class__.vae_key_prefix[0]
    whole = {f"model.diffusion_model.{name}": value for name, value in made.items()} if checkpoint else made
    if checkpoint:
        whole |= {f"{prefix}{name}": value for name, value in _vae(file).items()}
    return whole | _random(model.more, file), said


def _config(model: Tiny) -> Any:
    return getattr(comfy.supported_models, model.family)(model.config)


def _module(model: Tiny) -> torch.nn.Module:
    config = _config(model)
    config.set_inference_dtype(torch.float32, None)
    config.custom_operations = comfy.ops.disable_weight_init
    more = {name: torch.zeros(shape) for name, shape in model.more.items()}
    return config.get_model(more, "").diffusion_model


def _is_detected(weights: Weights, model: Tiny) -> bool:
    """Whether ComfyUI detects exactly this configuration from the weights."""
    try:
        config = comfy.model_detection.model_config_from_unet(dict(weights), "")
    except (KeyError, AttributeError):
        return False
    asked = _config(model)
    return type(config) is type(asked) and _text(config.unet_config) == _text(asked.unet_config)


def _text(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=str)


def random_weights(module: torch.nn.Module, file: str) -> Weights:
    """Random weights of a module, scaled so that output and input are of about equal size, seeded by the file name."""
    kept = {name: value for name, value in module.state_dict().items() if not value.is_floating_point()}
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if name not in kept}
    return kept | _random(shapes, file)


def _random(shapes: dict[str, tuple[int, ...]], file: str) -> Weights:
    generator = torch.Generator().manual_seed(zlib.crc32(file.encode()))
    made = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            made[name] = drawn / max(1, drawn[0].numel()) ** 0.5
        else:
            is_scale = "norm" in name and name.endswith(("weight", "scale", "gamma"))
            made[name] = 0.1 * drawn + float(is_scale or name.endswith("running_var"))
    return made


def _lora(file: str, model: Tiny) -> Weights:
    layers = [
        (name.removesuffix(".weight"), value.shape)
        for name, value in _module(model).state_dict().items()
        if name.endswith(".weight") and value.ndim == 2 and "blocks" in name
    ]
    shapes = {}
    for layer, (rows, columns) in layers[:: max(1, len(layers) // _LORA_LAYERS)]:
        shapes[f"diffusion_model.{layer}.lora_up.weight"] = (rows, _LORA_RANK)
        shapes[f"diffusion_model.{layer}.lora_down.weight"] = (_LORA_RANK, columns)
    return _random(shapes, file)


def _sd35_controlnet(file: str) -> Weights:
    """Stability's ControlNet for SD3.5 (for edges), with the width of the tiny model."""
    module = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2, double_y_emb=False,
        attention_head_dim=64, num_attention_heads=2, adm_in_channels=2048, device=None, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    return random_weights(module, file) | {"control_type": torch.tensor(1.0)}


def _taesd(channels: int) -> torch.nn.Module:
    return comfy.taesd.taesd.TAESD(latent_channels=channels)


def _taehv(channels: int) -> torch.nn.Module:
    return comfy.taesd.taehv.TAEHV(channels)


def _wan_vae() -> torch.nn.Module:
    return comfy.ldm.wan.vae.WanVAE(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], image_channels=3, conv_out_channels=3, dropout=0.0,
    )  # fmt: skip


def _flux2_vae() -> torch.nn.Module:
    config = {
        "double_z": True, "z_channels": 32, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
        "batch_norm_latent": True,
    }  # fmt: skip
    return comfy.ldm.models.autoencoder.AutoencoderKL(
        ddconfig=config, embed_dim=32, decoder_ddconfig=config | {"ch": 32}
    )


def _stable_audio_vae() -> torch.nn.Module:
    return comfy.ldm.audio.autoencoder.AudioOobleckVAE()


def _ace15_vae() -> torch.nn.Module:
    return comfy.ldm.audio.autoencoder.AudioOobleckVAE(strides=[2, 4, 4, 6, 10])


def _ace_vae() -> torch.nn.Module:
    return comfy.ldm.ace.vae.music_dcae_pipeline.MusicDCAE(source_sample_rate=44100)


_VAES: tuple[tuple[str, Callable[[], torch.nn.Module]], ...] = (
    ("qwen_image_vae", _wan_vae),
    ("wan_2.1_vae", _wan_vae),
    ("wan2.2_vae", lambda: _taehv(48)),
    ("hunyuanvideo15", lambda: _taehv(32)),
    ("hunyuan_video", lambda: _taehv(16)),
    ("ltx-video", lambda: _taehv(128)),
    ("flux2-vae", _flux2_vae),
    ("full_encoder_small_decoder", _flux2_vae),
    ("mage_flow_vae", comfy.ldm.mage_flow.vae.MageVAE),
    ("hunyuan_3d", comfy.ldm.hunyuan3d.vae.ShapeVAE),
    ("hunyuan3d", comfy.ldm.hunyuan3d.vae.ShapeVAE),
    ("ace_step_v1", _ace_vae),
    ("ace_step_1.5", _ace15_vae),
    ("stable-audio", _stable_audio_vae),
    ("v1-5", lambda: _taesd(4)),
    ("dreamshaper", lambda: _taesd(4)),
    ("sd_xl", lambda: _taesd(4)),
    ("svd", lambda: _taesd(4)),
    ("sd3", lambda: _taesd(16)),
    ("flux", lambda: _taesd(16)),
    ("netayume", lambda: _taesd(16)),
    ("ae.safetensors", lambda: _taesd(16)),
)
"""(part of the file's name, maker of a VAE that ComfyUI detects by its weights and that fits the family's latents)."""


def _vae(file: str) -> Weights:
    build = next((build for part, build in _VAES if part in file.lower()), None)
    if build is None:
        raise KeyError(f"no VAE for {file}")
    weights = random_weights(build(), file)
    if sum(value.numel() for value in weights.values()) > _LARGE:
        weights = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
    return comfy.utils.state_dict_prefix_replace(weights, _MAGE)


def _picture(file: str) -> Image.Image:
    """A random picture; a PNG also has a mask, a gradient from left to right."""
    drawn = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(len(file)))
    picture = Image.fromarray(drawn.numpy()).resize(PICTURE_SIZE, Image.Resampling.BICUBIC)
    if file.lower().endswith(".png"):
        picture.putalpha(Image.linear_gradient("L").rotate(90).resize(PICTURE_SIZE))
    return picture


def remove_files(folder: Path) -> None:
    """Removes the files that were written for the last prompt."""
    for place in ("models", "input"):
        for path in (folder / place).rglob("*"):
            if path.is_file():
                path.unlink()
