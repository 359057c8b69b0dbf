"""Workflows that run folders of diffusers, with the settings of the papers."""

from __future__ import annotations

from typing import Any

from . import parts
from .graph import Graph, Node

_PHOTO = "a red fox in fresh snow at sunrise, long shadows, photograph, sharp focus"
_WAVES = "slow waves roll onto a pebble beach in the evening, the camera glides along the shore, warm light"
_RAIN = "heavy rain on a tin roof, distant thunder, a dog barks twice"
_BAD = "blurry, low quality, watermark"

_FOLDER = (
    "**The folder** Fetch the whole repository into `models/diffusers/` and press R; or write where it is into *path*. "
    "Nothing is downloaded, no code of it is run, and only its `.safetensors` are read."
)
_STEPS = (
    "**How the work is shared** One device takes the prompt, another the negative prompt. With four or more, Step "
    "Reuse lets the others compute neighbouring steps at the same time; the result then changes a little."
)
_TWO = "**With two devices** bypass Step Reuse (select it, Ctrl+B): one for each prompt is as fast, and exact."
_TOKENS = (
    "**How the work is shared** The model evaluates one condition at a time, so the devices share its tokens and "
    "exchange keys and values in every layer. On a slow link set the mode of Step Reuse to `look_ahead`."
)
_PICTURE = "**Load Image** takes the first frame: choose or drop a picture there."


def _read_me(graph: Graph, title: str, about: str, folder: str, *advice: str) -> None:
    parts.read_me(graph, f"{title} on all devices", about, [folder], _FOLDER, *advice, parts.DEVICES, parts.FIRST)


def _pipeline(
    graph: Graph, folder: str, *, compression: bool = False, reuse: dict[str, Any] | None = None, **engine: Any
) -> Node:
    """The Parallel nodes and Parallel Pipeline; without `reuse` Step Reuse is off."""
    graph.lane()
    graph.group("Parallel", parts.GREEN)
    plugged = {
        "pool": graph.node("CompactParallelPool", devices="auto"),
        "strategy": graph.node("CompactParallelStrategy", mode="auto"),
    }
    graph.column()
    if compression:
        plugged["compression"] = graph.node("CompactParallelCompression", mode="auto")
    mode = {"mode": "look_ahead", **reuse} if reuse else {"mode": "off"}
    plugged["step_reuse"] = graph.node("CompactParallelStepReuse", **mode)
    graph.lane()
    graph.group("Model", parts.BLUE)
    return graph.node("CompactParallelPipeline", folder=folder, dtype="auto", **plugged, **engine)


def _look_ahead(warmup_calls: int) -> dict[str, int]:
    return {"mode__look_ahead": 2, "mode__warmup_calls": warmup_calls}


def _sampled(graph: Graph, pipeline: Node, **inputs: Any) -> Node:
    parts.sampling_lane(graph)
    return graph.node("CompactParallelPipelineSample", pipeline=pipeline, seed=1, **inputs)


def _report(graph: Graph, sampled: Node, kind: str) -> None:
    """The result lane up to what Parallel Report says of the run."""
    graph.lane()
    graph.group("Result", parts.AMBER)
    report = graph.node("CompactParallelReport", latent=sampled[kind])
    graph.node("PreviewImage", "Plot", images=report["plot"])
    graph.node("PreviewAny", "Summary", source=report["summary"])
    graph.column()


def _save_picture(graph: Graph, sampled: Node, prefix: str) -> None:
    _report(graph, sampled, "IMAGE")
    graph.node("SaveImage", images=sampled, filename_prefix=prefix)


def _save_video(graph: Graph, sampled: Node, prefix: str) -> None:
    _report(graph, sampled, "VIDEO")
    graph.node("SaveVideo", video=sampled, filename_prefix=f"video/{prefix}")


def audioldm2(graph: Graph) -> None:
    """AudioLDM 2 large, text to sound."""
    folder = "audioldm2-large"
    _read_me(graph, "AudioLDM 2", "Ten seconds of sound from a text, in 200 steps.", folder, _STEPS, _TWO)
    pipeline = _pipeline(graph, folder, reuse=_look_ahead(5))
    sampled = _sampled(
        graph, pipeline, prompt=_RAIN, negative_prompt="low quality, noise", steps=200, guidance=3.5, seconds=10.0
    )
    _report(graph, sampled, "AUDIO")
    graph.node("SaveAudio", audio=sampled, filename_prefix="audio/audioldm2")


def latte(graph: Graph) -> None:
    """Latte, text to video."""
    folder = "Latte-1"
    _read_me(graph, "Latte", "16 frames of 512 x 512 from a text, two seconds.", folder, _STEPS, _TWO, parts.COMPRESS)
    pipeline = _pipeline(graph, folder, compression=True, reuse=_look_ahead(13))
    size = {"width": 512, "height": 512, "frames": 16}
    sampled = _sampled(graph, pipeline, prompt=_WAVES, negative_prompt=_BAD, steps=50, guidance=7.5, **size)
    _save_video(graph, sampled, "latte")


def cogvideox(graph: Graph) -> None:
    """CogVideoX 2B, text to video."""
    folder = "CogVideoX-2b"
    _read_me(
        graph, "CogVideoX 2B", "49 frames of 720 x 480 from a text, six seconds. The model wants long prompts.", folder,
        _STEPS, _TWO, parts.COMPRESS,
    )  # fmt: skip
    pipeline = _pipeline(graph, folder, compression=True, reuse=_look_ahead(13))
    size = {"width": 720, "height": 480, "frames": 49}
    sampled = _sampled(graph, pipeline, prompt=_WAVES, negative_prompt=_BAD, steps=50, guidance=6.0, **size)
    _save_video(graph, sampled, "cogvideox")


def svd(graph: Graph) -> None:
    """Stable Video Diffusion XT, image to video."""
    folder = "stable-video-diffusion-img2vid-xt"
    _read_me(
        graph, "Stable Video Diffusion", "25 frames of 1024 x 576 from a picture; no prompt.", folder, _PICTURE,
        _STEPS.replace("the prompt, another the negative prompt", "the call with the picture, another the one without"),
        _TWO.replace("prompt", "of them"),
    )  # fmt: skip
    pipeline = _pipeline(graph, folder, reuse=_look_ahead(5))
    graph.group("Picture", parts.PURPLE)
    picture = graph.node("LoadImage", image="example.png")
    size = {"width": 1024, "height": 576, "frames": 25}
    sampled = _sampled(graph, pipeline, image=picture, steps=50, guidance=3.0, **size, fps=7)
    _save_video(graph, sampled, "svd_pipeline")


def sd3(graph: Graph) -> None:
    """Stable Diffusion 3 medium."""
    folder = "stable-diffusion-3-medium-diffusers"
    _read_me(graph, "Stable Diffusion 3 medium", "One picture of 1024 x 1024.", folder, _STEPS, _TWO, parts.COMPRESS)
    pipeline = _pipeline(graph, folder, compression=True, reuse=_look_ahead(5))
    size = {"width": 1024, "height": 1024}
    _save_picture(
        graph, _sampled(graph, pipeline, prompt=_PHOTO, negative_prompt=_BAD, steps=50, guidance=7.0, **size), "sd3"
    )


def flux(graph: Graph) -> None:
    """FLUX.1-dev."""
    folder = "FLUX.1-dev"
    _read_me(graph, "FLUX.1-dev", "One picture of 1024 x 1024.", folder, _TOKENS, parts.COMPRESS)
    pipeline = _pipeline(graph, folder, compression=True)
    sampled = _sampled(graph, pipeline, prompt=_PHOTO, steps=28, guidance=3.5, width=1024, height=1024)
    _save_picture(graph, sampled, "flux")


def pixart(graph: Graph) -> None:
    """PixArt Sigma by xDiT."""
    folder = "PixArt-Sigma-XL-2-1024-MS"
    _read_me(
        graph, "PixArt Sigma by xDiT", "One picture of 1024 x 1024, by xDiT's own pipeline (on Linux).", folder,
        "**How the work is shared** One half of the devices takes the prompt, the other the negative prompt; each half "
        "shares the tokens. For PipeFusion set pipefusion_degree to 2: two devices then hold a half of the model each, "
        "and the picture changes a little.",
        "**With one device, elsewhere than on Linux**, or to use Step Reuse, set engine to `diffusers`.",
        parts.COMPRESS,
    )  # fmt: skip
    pipeline = _pipeline(graph, folder, compression=True, engine="xdit")
    size = {"width": 1024, "height": 1024}
    sampled = _sampled(graph, pipeline, prompt=_PHOTO, negative_prompt=_BAD, steps=20, guidance=4.5, **size)
    _save_picture(graph, sampled, "pixart_sigma")


def wan(graph: Graph) -> None:
    """Wan 2.1 1.3B, text to video."""
    folder = "Wan2.1-T2V-1.3B-Diffusers"
    _read_me(graph, "Wan 2.1 1.3B", "Five seconds of 832 x 480 from a text.", folder, _TOKENS, parts.COMPRESS)
    pipeline = _pipeline(graph, folder, compression=True)
    size = {"width": 832, "height": 480, "frames": 81}
    sampled = _sampled(graph, pipeline, prompt=_WAVES, negative_prompt=_BAD, steps=50, guidance=5.0, **size)
    _save_video(graph, sampled, "wan2.1")


WORKFLOWS = {
    "pipeline_audioldm2": audioldm2,
    "pipeline_latte": latte,
    "pipeline_cogvideox": cogvideox,
    "pipeline_svd": svd,
    "pipeline_sd3": sd3,
    "pipeline_flux": flux,
    "pipeline_pixart_sigma": pixart,
    "pipeline_wan": wan,
}
