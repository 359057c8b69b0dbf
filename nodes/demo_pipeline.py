"""Completes the demo pipeline: the weights of the tiny model, renamed for diffusers.

The pipeline's folder comes with everything but the weights of its transformer and of its autoencoder. They are those of
the files that ComfyUI loads, so they are made of these when the pipeline is used for the first time.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..runtime.config import ConfigError

Weights = dict[str, torch.Tensor]

MODELS = Path(__file__).resolve().parent.parent / "workflows" / "models"
DIFFUSERS = "diffusers"
TINY = "compact_parallel_tiny"
NAME = "diffusion_pytorch_model.safetensors"

EMBEDDERS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
DOUBLE_BLOCK = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
SINGLE_BLOCK = {
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
QUERY_KEY_VALUE = ("attn.to_q", "attn.to_k", "attn.to_v")
TEXT_QUERY_KEY_VALUE = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


def complete(folder: Path, models: Path = MODELS) -> None:
    """Writes the weights that the demo pipeline's `folder` lacks; does nothing for any other folder.

    `models`: the folder with the tiny model, and with the pipeline. The weights are written again if the files they are
    made of are newer. Raises ConfigError if the folder cannot be written to.
    """
    if folder.resolve() != (models / DIFFUSERS / TINY).resolve():
        return
    try:
        _make(models / "diffusion_models" / f"{TINY}.safetensors", folder / "transformer", to_transformer)
        _make(models / "vae" / f"{TINY}_vae.safetensors", folder / "vae", to_autoencoder)
    except OSError as error:
        raise ConfigError(
            f"folder is {str(folder)!r}, where the weights of the tiny model could not be written ({error}); make it "
            "writable, or choose another pipeline."
        ) from error


def to_transformer(weights: Weights) -> Weights:
    """The weights of ComfyUI's Flux as those of diffusers' FluxTransformer2DModel."""
    hidden = weights["img_in.weight"].shape[0]
    found: Weights = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        stem, _, place = module.partition(".")
        number, _, part = place.partition(".")
        if stem == "double_blocks":
            prefix = f"transformer_blocks.{number}."
            if part.endswith(".qkv"):
                names = QUERY_KEY_VALUE if part.startswith("img") else TEXT_QUERY_KEY_VALUE
                found |= {f"{prefix}{new}.{kind}": each for new, each in zip(names, value.split(hidden))}
            else:
                found[f"{prefix}{DOUBLE_BLOCK[part]}.{kind}"] = value
        elif stem == "single_blocks":
            prefix = f"single_transformer_blocks.{number}."
            if part == "linear1":
                sizes = [hidden] * 3 + [len(value) - 3 * hidden]
                names = (*QUERY_KEY_VALUE, "proj_mlp")
                found |= {f"{prefix}{new}.{kind}": each for new, each in zip(names, value.split(sizes))}
            else:
                found[f"{prefix}{SINGLE_BLOCK[part]}.{kind}"] = value
        elif module == "final_layer.adaLN_modulation.1":
            shift, scale = value.chunk(2)
            found[f"norm_out.linear.{kind}"] = torch.cat((scale, shift))
        else:
            found[f"{EMBEDDERS[module]}.{kind}"] = value
    return found


def to_autoencoder(weights: Weights) -> Weights:
    """The weights of a TAESD file of ComfyUI as those of diffusers' AutoencoderTiny.

    Its latents are the transformer's: vae_scale and vae_shift only undo what ComfyUI does to Flux latents.
    """
    found = {}
    for name, value in weights.items():
        half, _, place = name.partition(".")
        if half == "taesd_encoder":
            found[f"encoder.layers.{place}"] = value.float()
        elif half == "taesd_decoder":  # its layer 0 bounds the latents, which is no layer in diffusers
            number, _, rest = place.partition(".")
            found[f"decoder.layers.{int(number) - 1}.{rest}"] = value.float()
    return found


def _make(source: Path, folder: Path, convert: Callable[[Weights], Weights]) -> None:
    """Writes the converted weights of `source`, unless they are there. Others see the whole file or none."""
    file = folder / NAME
    if file.is_file() and file.stat().st_mtime >= source.stat().st_mtime:
        return
    converted = {name: value.contiguous() for name, value in convert(load_file(source)).items()}
    handle, partial = tempfile.mkstemp(prefix=f"{NAME}.", suffix=".partial", dir=folder)
    os.close(handle)
    try:
        save_file(converted, partial, metadata={"format": "pt", "license": "GPL-3.0-or-later"})
        os.replace(partial, file)
    finally:
        Path(partial).unlink(missing_ok=True)
