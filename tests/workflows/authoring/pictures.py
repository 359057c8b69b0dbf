"""Workflows that make a picture with real weights."""

from __future__ import annotations

from . import parts
from .graph import Graph

_FOX = "a red fox in fresh snow at sunrise, long shadows, photograph, sharp focus"
_BAD = "blurry, low quality, watermark"
_LOOK_AHEAD = (
    "**Step Reuse** is off, so the picture is the one a single device makes. Set its mode to `look_ahead` for more "
    "speed, most of all on a slow link; the picture then changes a little."
)
_CFG = (
    "**How the work is shared** CFG is above 1, so with two devices one takes the positive and one the negative "
    "prompt: exact, and almost nothing crosses the link."
)


def flux1_dev(graph: Graph) -> None:
    """FLUX.1-dev, guidance distilled: the devices share the tokens."""
    files = ["flux1-dev.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors"]
    parts.read_me(
        graph,
        "FLUX.1-dev on all devices",
        "One picture of 1024 x 1024. The model runs once per step (CFG 1), so the devices share the tokens of the "
        "picture and exchange keys and values in every layer.",
        files,
        *parts.real_advice(parts.COMPRESS, _LOOK_AHEAD),
    )
    parts.model_lane(graph)
    unet = graph.node("UNETLoader", unet_name=files[0])
    clip = graph.node("DualCLIPLoader", clip_name1=files[1], clip_name2=files[2], type="flux")
    vae = graph.node("VAELoader", vae_name=files[3])
    (positive,) = parts.prompts(graph, clip, _FOX)
    graph.column()
    guided = graph.node("FluxGuidance", conditioning=positive, guidance=3.5)
    negative = graph.node("ConditioningZeroOut", "No Negative Prompt", conditioning=positive)
    (model,) = parts.parallel(graph, unet, compression=True)
    parts.sampling_lane(graph)
    latent = graph.node("EmptySD3LatentImage", "Empty Latent", width=1024, height=1024)
    sampler = graph.node(
        "KSampler", model=model, positive=guided, negative=negative, latent_image=latent,
        seed=1, steps=20, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    parts.save_picture(graph, sampler, vae, "flux1_dev")


def flux2_dev(graph: Graph) -> None:
    """FLUX.2-dev by SamplerCustomAdvanced."""
    files = ["flux2_dev_fp8mixed.safetensors", "mistral_3_small_flux2_fp8.safetensors", "flux2-vae.safetensors"]
    parts.read_me(
        graph,
        "FLUX.2-dev on all devices",
        "One picture of 1024 x 1024. The model runs once per step, so the devices share the tokens of the picture and "
        "exchange keys and values in every layer.",
        files,
        *parts.real_advice(parts.COMPRESS, _LOOK_AHEAD),
    )
    parts.model_lane(graph)
    unet = graph.node("UNETLoader", unet_name=files[0])
    clip = graph.node("CLIPLoader", clip_name=files[1], type="flux2")
    vae = graph.node("VAELoader", vae_name=files[2])
    (positive,) = parts.prompts(graph, clip, _FOX)
    graph.column()
    guided = graph.node("FluxGuidance", conditioning=positive, guidance=4.0)
    (model,) = parts.parallel(graph, unet, compression=True)
    parts.sampling_lane(graph)
    guider = graph.node("BasicGuider", model=model, conditioning=guided)
    noise = graph.node("RandomNoise", noise_seed=1)
    kind = graph.node("KSamplerSelect", sampler_name="euler")
    sigmas = graph.node("Flux2Scheduler", steps=20, width=1024, height=1024)
    latent = graph.node("EmptyFlux2LatentImage", "Empty Latent", width=1024, height=1024)
    graph.column()
    sampler = graph.node(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=kind, sigmas=sigmas, latent_image=latent
    )
    parts.save_picture(graph, sampler, vae, "flux2_dev")


def qwen_image(graph: Graph) -> None:
    """Qwen-Image with CFG."""
    files = ["qwen_image_fp8_e4m3fn.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image_vae.safetensors"]
    parts.read_me(
        graph,
        "Qwen-Image on all devices",
        "One picture of 1328 x 1328.",
        files,
        *parts.real_advice(_CFG, parts.COMPRESS, _LOOK_AHEAD),
    )
    parts.model_lane(graph)
    unet = graph.node("UNETLoader", unet_name=files[0])
    shifted = graph.node("ModelSamplingAuraFlow", "Shift", model=unet, shift=3.1)
    clip = graph.node("CLIPLoader", clip_name=files[1], type="qwen_image")
    vae = graph.node("VAELoader", vae_name=files[2])
    positive, negative = parts.prompts(graph, clip, _FOX, _BAD)
    (model,) = parts.parallel(graph, shifted, compression=True)
    parts.sampling_lane(graph)
    latent = graph.node("EmptySD3LatentImage", "Empty Latent", width=1328, height=1328)
    sampler = graph.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        seed=1, steps=20, cfg=4.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    parts.save_picture(graph, sampler, vae, "qwen_image")


def sd35_large(graph: Graph) -> None:
    """Stable Diffusion 3.5 Large from one checkpoint."""
    files = ["sd3.5_large_fp8_scaled.safetensors"]
    parts.read_me(
        graph,
        "Stable Diffusion 3.5 Large on all devices",
        "One picture of 1024 x 1024; the checkpoint has the text encoders and the VAE in it.",
        files,
        *parts.real_advice(
            _CFG + " With four devices each pair also shares the tokens of the picture.", parts.COMPRESS, _LOOK_AHEAD
        ),
    )
    parts.model_lane(graph)
    checkpoint = graph.node("CheckpointLoaderSimple", ckpt_name=files[0])
    positive, negative = parts.prompts(graph, checkpoint, _FOX, _BAD)
    (model,) = parts.parallel(graph, checkpoint, compression=True)
    parts.sampling_lane(graph)
    latent = graph.node("EmptySD3LatentImage", "Empty Latent", width=1024, height=1024)
    sampler = graph.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        seed=1, steps=20, cfg=4.0, sampler_name="euler", scheduler="sgm_uniform", denoise=1.0,
    )  # fmt: skip
    parts.save_picture(graph, sampler, checkpoint, "sd3.5_large")


def sdxl(graph: Graph) -> None:
    """SDXL, CFG and steps shared."""
    files = ["sd_xl_base_1.0.safetensors"]
    parts.read_me(
        graph,
        "SDXL on all devices: prompts and steps",
        "One picture of 1024 x 1024.",
        files,
        *parts.real_advice(
            "**How the work is shared** Step Reuse lets the devices compute two neighbouring steps at the same time; "
            "with four devices each step is shared by two, one for the positive and one for the negative prompt. "
            "Hardly anything crosses the link. The picture changes a little.",
            "**With two devices** one for each prompt is as fast, and exact: bypass Step Reuse (select it, Ctrl+B).",
        ),
    )
    parts.model_lane(graph)
    checkpoint = graph.node("CheckpointLoaderSimple", ckpt_name=files[0])
    positive, negative = parts.prompts(graph, checkpoint, _FOX, _BAD)
    (model,) = parts.parallel(graph, checkpoint, look_ahead=2)
    parts.sampling_lane(graph)
    latent = graph.node("EmptyLatentImage", "Empty Latent", width=1024, height=1024)
    sampler = graph.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        seed=1, steps=30, cfg=7.0, sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0,
    )  # fmt: skip
    parts.save_picture(graph, sampler, checkpoint, "sdxl")


WORKFLOWS = {
    "flux1_dev": flux1_dev,
    "flux2_dev": flux2_dev,
    "qwen_image": qwen_image,
    "sd3.5_large": sd35_large,
    "sdxl": sdxl,
}
