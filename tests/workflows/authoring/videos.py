"""Workflows that make a video with real weights."""

from __future__ import annotations

from . import parts
from .graph import Graph, Node, Output

_WAVES = (
    "Slow waves roll onto a pebble beach in the evening, foam runs back between the stones, the camera glides along "
    "the shore at the height of the water, warm light, natural colours"
)
_BAD = "static picture, blurry, low quality, distorted, subtitles, watermark"
_CFG = (
    "**How the work is shared** CFG is above 1, so with two devices one takes the positive and one the negative "
    "prompt: exact, and almost nothing crosses the link."
)
_TOKENS = " With four devices each pair also shares the tokens of the video."
_PICTURE = "**Load Image** takes the first frame: choose or drop a picture there."


def _two_experts(graph: Graph, kind: str) -> tuple[Node, Node, Node, Node]:
    """Wan 2.2's model for the first and for the last steps, the text encoder and the VAE."""
    parts.model_lane(graph)
    shifted = []
    for noise in ("high", "low"):
        name = f"wan2.2_{kind}_{noise}_noise_14B_fp8_scaled.safetensors"
        loaded = graph.node("UNETLoader", f"Load {noise.title()} Noise Model", unet_name=name)
        shifted.append(graph.node("ModelSamplingSD3", f"Shift, {noise.title()} Noise", model=loaded, shift=5.0))
    graph.column()
    clip = graph.node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    vae = graph.node("VAELoader", vae_name="wan_2.1_vae.safetensors")
    return shifted[0], shifted[1], clip, vae


def _wan_read_me(graph: Graph, kind: str, title: str, about: str, *advice: str) -> None:
    models = [f"wan2.2_{kind}_{noise}_noise_14B_fp8_scaled.safetensors" for noise in ("high", "low")]
    parts.read_me(
        graph,
        title,
        about + " Two models take turns: one for the first ten steps, one for the last ten; each has its own Parallel "
        "Model, and both use the same workers.",
        [*models, "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"],
        *parts.real_advice(*advice, _CFG + _TOKENS, parts.COMPRESS),
    )


def _wan_models(graph: Graph, high: Node, low: Node) -> list[Node]:
    titles = ("Parallel Model, High Noise", "Parallel Model, Low Noise")
    return parts.parallel(graph, high, low, compression=True, titles=titles)


def _wan_sampling(graph: Graph, models: list[Node], positive: Output, negative: Output, latent: Output | Node) -> Node:
    """Ten steps by each model, one after the other."""
    shared = {
        "steps": 20,
        "cfg": 3.5,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": positive,
        "negative": negative,
    }
    first = graph.node(
        "KSamplerAdvanced", "First Steps", model=models[0], latent_image=latent, add_noise="enable", noise_seed=1,
        start_at_step=0, end_at_step=10, return_with_leftover_noise="enable", **shared,
    )  # fmt: skip
    graph.column()
    return graph.node(
        "KSamplerAdvanced", "Last Steps", model=models[1], latent_image=first, add_noise="disable", noise_seed=0,
        start_at_step=10, end_at_step=10000, return_with_leftover_noise="disable", **shared,
    )  # fmt: skip


def wan_t2v(graph: Graph) -> None:
    """Wan 2.2 14B, text to video."""
    _wan_read_me(graph, "t2v", "Wan 2.2 14B, text to video, on all devices", "Five seconds of 832 x 480.")
    high, low, clip, vae = _two_experts(graph, "t2v")
    positive, negative = parts.prompts(graph, clip, _WAVES, _BAD)
    models = _wan_models(graph, high, low)
    parts.sampling_lane(graph)
    latent = graph.node("EmptyHunyuanLatentVideo", "Empty Latent", width=832, height=480, length=81)
    sampler = _wan_sampling(graph, models, positive.of_type("CONDITIONING"), negative.of_type("CONDITIONING"), latent)
    parts.save_video(graph, sampler, vae, "video/wan2.2_t2v", 16.0)


def wan_i2v(graph: Graph) -> None:
    """Wan 2.2 14B, image to video."""
    _wan_read_me(
        graph,
        "i2v",
        "Wan 2.2 14B, image to video, on all devices",
        "Five seconds of 832 x 480 from a picture.",
        _PICTURE,
    )
    high, low, clip, vae = _two_experts(graph, "i2v")
    picture = graph.node("LoadImage", image="example.png")
    positive, negative = parts.prompts(graph, clip, _WAVES, _BAD)
    models = _wan_models(graph, high, low)
    parts.sampling_lane(graph)
    start = graph.node(
        "WanImageToVideo",
        positive=positive,
        negative=negative,
        vae=vae,
        start_image=picture,
        width=832,
        height=480,
        length=81,
    )
    sampler = _wan_sampling(graph, models, start["positive"], start["negative"], start)
    parts.save_video(graph, sampler, vae, "video/wan2.2_i2v", 16.0)


def ltx_video(graph: Graph) -> None:
    """LTX-Video 2B, text to video."""
    files = ["ltx-video-2b-v0.9.safetensors", "t5xxl_fp16.safetensors"]
    parts.read_me(
        graph,
        "LTX-Video on all devices",
        "Four seconds of 768 x 512. The model wants long prompts that describe the movement.",
        files,
        *parts.real_advice(_CFG, parts.COMPRESS),
    )
    parts.model_lane(graph)
    checkpoint = graph.node("CheckpointLoaderSimple", ckpt_name=files[0])
    clip = graph.node("CLIPLoader", clip_name=files[1], type="ltxv")
    positive, negative = parts.prompts(graph, clip, _WAVES, _BAD)
    graph.column()
    rated = graph.node("LTXVConditioning", positive=positive, negative=negative, frame_rate=25.0)
    (model,) = parts.parallel(graph, checkpoint, compression=True)
    parts.sampling_lane(graph)
    kind = graph.node("KSamplerSelect", sampler_name="euler")
    latent = graph.node("EmptyLTXVLatentVideo", "Empty Latent", width=768, height=512, length=97)
    sigmas = graph.node("LTXVScheduler", steps=30, latent=latent)
    graph.column()
    sampler = graph.node(
        "SamplerCustom", model=model, positive=rated["positive"], negative=rated["negative"], sampler=kind,
        sigmas=sigmas, latent_image=latent, add_noise=True, noise_seed=1, cfg=3.0,
    )  # fmt: skip
    parts.save_video(graph, sampler, checkpoint, "video/ltx_video", 25.0)


def hunyuan_video(graph: Graph) -> None:
    """HunyuanVideo, guidance distilled: the devices share the steps."""
    model_file, vae_file = "hunyuan_video_t2v_720p_bf16.safetensors", "hunyuan_video_vae_bf16.safetensors"
    texts = ["clip_l.safetensors", "llava_llama3_fp8_scaled.safetensors"]
    parts.read_me(
        graph,
        "HunyuanVideo on all devices",
        "Three seconds of 848 x 480.",
        [model_file, *texts, vae_file],
        *parts.real_advice(
            "**How the work is shared** The model runs once per step (its guidance is built in), so Step Reuse lets "
            "the devices compute two neighbouring steps at the same time. Hardly anything crosses the link. The video "
            "changes a little.",
            parts.COMPRESS,
        ),
    )
    parts.model_lane(graph)
    unet = graph.node("UNETLoader", unet_name=model_file)
    shifted = graph.node("ModelSamplingSD3", "Shift", model=unet, shift=7.0)
    clip = graph.node("DualCLIPLoader", clip_name1=texts[0], clip_name2=texts[1], type="hunyuan_video")
    vae = graph.node("VAELoader", vae_name=vae_file)
    (positive,) = parts.prompts(graph, clip, _WAVES)
    graph.column()
    guided = graph.node("FluxGuidance", "Guidance", conditioning=positive, guidance=6.0)
    (model,) = parts.parallel(graph, shifted, compression=True, look_ahead=2)
    parts.sampling_lane(graph)
    guider = graph.node("BasicGuider", model=model, conditioning=guided)
    noise = graph.node("RandomNoise", noise_seed=1)
    kind = graph.node("KSamplerSelect", sampler_name="euler")
    sigmas = graph.node("BasicScheduler", model=model, scheduler="simple", steps=20, denoise=1.0)
    latent = graph.node("EmptyHunyuanLatentVideo", "Empty Latent", width=848, height=480, length=73)
    graph.column()
    sampler = graph.node(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=kind, sigmas=sigmas, latent_image=latent
    )
    parts.save_video(graph, sampler, vae, "video/hunyuan_video", 24.0, tiled=True)


def svd(graph: Graph) -> None:
    """Stable Video Diffusion XT, image to video."""
    files = ["svd_xt.safetensors"]
    parts.read_me(
        graph,
        "Stable Video Diffusion on all devices",
        "25 frames of 1024 x 576 from a picture; no prompt.",
        files,
        *parts.real_advice(
            _PICTURE,
            "**How the work is shared** CFG is above 1, so with two devices one computes with the picture and one "
            "without: exact, and almost nothing crosses the link.",
        ),
    )
    parts.model_lane(graph)
    checkpoint = graph.node("ImageOnlyCheckpointLoader", ckpt_name=files[0])
    guided = graph.node("VideoLinearCFGGuidance", model=checkpoint, min_cfg=1.0)
    graph.lane()
    graph.group("Picture", parts.PURPLE)
    picture = graph.node("LoadImage", image="example.png")
    graph.column()
    start = graph.node(
        "SVD_img2vid_Conditioning", "From Picture to Video", clip_vision=checkpoint, init_image=picture, vae=checkpoint,
        width=1024, height=576, video_frames=25, motion_bucket_id=127, fps=6, augmentation_level=0.0,
    )  # fmt: skip
    (model,) = parts.parallel(graph, guided)
    parts.sampling_lane(graph)
    sampler = graph.node(
        "KSampler", model=model, positive=start["positive"], negative=start["negative"], latent_image=start,
        seed=1, steps=20, cfg=2.5, sampler_name="euler", scheduler="karras", denoise=1.0,
    )  # fmt: skip
    parts.save_video(graph, sampler, checkpoint, "video/svd", 6.0)


WORKFLOWS = {
    "wan2.2_14b_t2v": wan_t2v,
    "wan2.2_14b_i2v": wan_i2v,
    "ltx_video": ltx_video,
    "hunyuan_video": hunyuan_video,
    "svd": svd,
}
