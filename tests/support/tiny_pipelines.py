"""Tiny pipelines of the real classes of diffusers, random weights and all, in folders that from_pretrained loads.

`saved(name, folder)` gives the folder of one, `arguments(name)` what its `__call__` wants. Pictures have 128 x 128
pixels, videos 64 x 64 (Latte 128 x 128, SVD 64 x 128). The token counts, and the rows of the UNets, can be split over 2
and over 4 ranks, and every attention has 4 heads.

A fresh denoiser hides mistakes: gates and last projections are zero, modulations tiny. So each of its parameters is
drawn anew (`stir`), which makes every block matter. Where the model predicts noise, the schedule ends before all is
noise: a random prediction would be divided by almost nothing there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import tiny_parts as parts
import torch
import transformers
from PIL import Image

HEADS = 4
STEPS = 12
PROMPT = "a red cat"


def stir(module: torch.nn.Module) -> None:
    """Draws every parameter anew: matrices so that they keep the size of what they multiply, vectors around what they
    were."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def audioldm2() -> diffusers.DiffusionPipeline:
    """A UNet, latents of 16 x 16, two cross-attentions per block, DDIM."""
    unet = diffusers.AudioLDM2UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, parts.WIDTH, parts.WIDTH),) * 2, attention_head_dim=HEADS,
    )  # fmt: skip
    return diffusers.AudioLDM2Pipeline(
        vae=parts.vae(1, levels=3),
        text_encoder=parts.clap_model(),
        text_encoder_2=parts.t5_encoder(),
        projection_model=diffusers.AudioLDM2ProjectionModel(parts.WIDTH, parts.WIDTH, parts.WIDTH),
        language_model=parts.gpt2_model(),
        tokenizer=parts.roberta_tokenizer(),
        tokenizer_2=parts.t5_tokenizer(),
        feature_extractor=transformers.ClapFeatureExtractor(feature_size=64, sampling_rate=16000),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.006, clip_sample=False),
        vocoder=parts.vocoder(),
    )


def latte() -> diffusers.DiffusionPipeline:
    """Spatial and temporal blocks in turn, 4 frames of 64 tokens, DDIM."""
    transformer = diffusers.LatteTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=32, attention_bias=True, sample_size=16, patch_size=2, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        caption_channels=parts.WIDTH, video_length=4,
    )  # fmt: skip
    return diffusers.LattePipeline(
        tokenizer=parts.t5_tokenizer(),
        text_encoder=parts.t5_encoder(),
        vae=parts.vae(3),
        transformer=transformer,
        scheduler=diffusers.DDIMScheduler(beta_end=0.004, clip_sample=False),
    )


def _cogvideox(pipeline: type, scheduler: Any, **changes: Any) -> diffusers.DiffusionPipeline:
    shape = {
        "num_attention_heads": HEADS, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
        "time_embed_dim": 32, "text_embed_dim": parts.WIDTH, "num_layers": 2, "sample_width": 8, "sample_height": 8,
        "sample_frames": 9, "max_text_seq_length": parts.TEXT_TOKENS,
    }  # fmt: skip
    return pipeline(
        tokenizer=parts.t5_tokenizer(),
        text_encoder=parts.t5_encoder(),
        vae=parts.cogvideox_vae(),
        transformer=diffusers.CogVideoXTransformer3DModel(**shape | changes),
        scheduler=scheduler,
    )


def _cogvideox_schedule() -> dict[str, Any]:
    return {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
        "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "clip_sample": False,
    }  # fmt: skip


def cogvideox() -> diffusers.DiffusionPipeline:
    """3 latent frames of 16 tokens, sine positions, DDIM: as the model of 2B."""
    scheduler = diffusers.CogVideoXDDIMScheduler(**_cogvideox_schedule())
    return _cogvideox(diffusers.CogVideoXPipeline, scheduler)


def cogvideox_dpm() -> diffusers.DiffusionPipeline:
    """Rotary positions, DPM with dynamic guidance: as the model of 5B."""
    scheduler = diffusers.CogVideoXDPMScheduler(**_cogvideox_schedule())
    return _cogvideox(diffusers.CogVideoXPipeline, scheduler, use_rotary_positional_embeddings=True)


def cogvideox_i2v() -> diffusers.DiffusionPipeline:
    """Image to video: latents of the picture beside the noisy ones, rotary and learned positions, DPM."""
    scheduler = diffusers.CogVideoXDPMScheduler(**_cogvideox_schedule())
    positions = {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True}
    return _cogvideox(diffusers.CogVideoXImageToVideoPipeline, scheduler, in_channels=8, **positions)


def svd() -> diffusers.DiffusionPipeline:
    """A UNet with time mixing, 4 frames of 16 x 8, Euler with v prediction."""
    unet = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=16, block_out_channels=(32, 32), layers_per_block=1, num_attention_heads=HEADS, num_frames=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=parts.WIDTH,
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24,
    )  # fmt: skip
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading", timestep_type="continuous",
        use_karras_sigmas=True, steps_offset=1, interpolation_type="linear",
    )  # fmt: skip
    return diffusers.StableVideoDiffusionPipeline(
        vae=parts.svd_vae(),
        image_encoder=parts.clip_vision_model(),
        unet=unet,
        scheduler=scheduler,
        feature_extractor=transformers.CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224),
    )


def sd3() -> diffusers.DiffusionPipeline:
    """Text and picture attend together, 32 and 64 tokens; the first block attends twice, as in 3.5 medium."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=3, attention_head_dim=8, num_attention_heads=HEADS, joint_attention_dim=64,
        caption_projection_dim=32, pooled_projection_dim=2 * parts.WIDTH, pos_embed_max_size=24,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=parts.vae(3, 16, shift_factor=0.06),
        text_encoder=transformers.CLIPTextModelWithProjection(parts.clip_config()),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(parts.clip_config()),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5_encoder(64),
        tokenizer_3=parts.t5_tokenizer(),
    )


def flux() -> diffusers.DiffusionPipeline:
    """Two double and two single blocks, 16 tokens of text and 64 of the picture, distilled guidance."""
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=12, num_attention_heads=HEADS,
        joint_attention_dim=parts.WIDTH, pooled_projection_dim=parts.WIDTH, guidance_embeds=True,
        axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return diffusers.FluxPipeline(
        scheduler=scheduler,
        vae=parts.vae(3, 4, shift_factor=0.1),
        text_encoder=transformers.CLIPTextModel(parts.clip_config()),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.t5_encoder(),
        tokenizer_2=parts.t5_tokenizer(),
        transformer=transformer,
    )


def pixart() -> diffusers.DiffusionPipeline:
    """PixArt Sigma: cross-attention with a mask, 64 tokens, a learned variance that is cut off, DPM-Solver."""
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=8, num_layers=2, cross_attention_dim=32, sample_size=16,
        caption_channels=parts.WIDTH, use_additional_conditions=False, interpolation_scale=1,
    )  # fmt: skip
    return diffusers.PixArtSigmaPipeline(
        tokenizer=parts.t5_tokenizer(),
        text_encoder=parts.t5_encoder(),
        vae=parts.vae(3),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_end=0.004),
    )


def wan() -> diffusers.DiffusionPipeline:
    """Wan 2.1: 3 latent frames of 16 tokens, two calls per step, UniPC with flow prediction."""
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=12, text_dim=parts.WIDTH, freq_dim=32, ffn_dim=64, num_layers=2,
        rope_max_seq_len=32,
    )  # fmt: skip
    return diffusers.WanPipeline(
        tokenizer=parts.t5_tokenizer(),
        text_encoder=parts.umt5_encoder(),
        vae=parts.wan_vae(),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=transformer,
    )


MAKERS: dict[str, Callable[[], diffusers.DiffusionPipeline]] = {
    maker.__name__: maker
    for maker in (audioldm2, latte, cogvideox, cogvideox_dpm, cogvideox_i2v, svd, sd3, flux, pixart, wan)
}
NAMES: tuple[str, ...] = tuple(MAKERS)


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture with different colours everywhere."""
    y_HW, x_HW = np.mgrid[0:height, 0:width]
    waves = [np.sin(x_HW / (5 + colour)) * np.cos(y_HW / (7 - colour)) for colour in range(3)]
    return Image.fromarray((127.5 * (1 + np.stack(waves, -1))).astype(np.uint8))


def arguments(name: str) -> dict[str, Any]:
    """The keyword arguments of a small run of `name`, 12 steps; the generator and output_type are the caller's."""
    small = {"height": 64, "width": 64, "num_inference_steps": STEPS}
    large = {"height": 128, "width": 128, "num_inference_steps": STEPS}
    text = {"prompt": PROMPT, "max_sequence_length": parts.TEXT_TOKENS}
    video = text | small | {"num_frames": 9}
    return {
        "audioldm2": lambda: {"prompt": PROMPT, "audio_length_in_s": 0.64, "num_inference_steps": STEPS},
        "latte": lambda: {"prompt": PROMPT, "video_length": 4, "clean_caption": False} | large,
        "cogvideox": lambda: video,
        "cogvideox_dpm": lambda: video | {"use_dynamic_cfg": True},
        "cogvideox_i2v": lambda: video | {"image": picture(64, 64), "use_dynamic_cfg": True},
        "svd": lambda: {"image": picture(64, 128), "num_frames": 4} | large | {"width": 64},
        "sd3": lambda: text | large,
        "flux": lambda: text | large,
        "pixart": lambda: text | large | {"clean_caption": False, "use_resolution_binning": False},
        "wan": lambda: video,
    }[name]()


def build(name: str) -> diffusers.DiffusionPipeline:
    """The pipeline itself, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(NAMES.index(name))
        pipeline = MAKERS[name]()
        stir(pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer)
    return pipeline


def saved(name: str, folder: Path) -> Path:
    """The folder of the pipeline `name` inside `folder`; it is made unless it is there.

    Several processes may ask for one at the same time.
    """
    final = folder / name
    if not final.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{name}_", dir=folder))
        build(name).save_pretrained(partial)
        try:
            os.rename(partial, final)
        except OSError:  # another process was first
            shutil.rmtree(partial)
            if not final.exists():
                raise
    return final
