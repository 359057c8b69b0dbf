"""Sizes that a loaded pipeline can make. It would round others in silence, or fail deep inside the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..config import ConfigError

FRAMES = ("num_frames", "video_length", "frames")
_SPATIAL = (
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_spatial_scale_factor",
    "vae_scale_factor",
)
_TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
# They cut a video into windows of their own, so every count is as good as the next.
_ANY_FRAMES = ("AllegroPipeline", "HunyuanVideoFramepackPipeline", "HeliosPipeline", "HeliosPyramidPipeline")


def check_sizes(pipeline: Any, arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError, which names the nearest sizes that work, if those in `arguments` of its __call__ do not.

    Sizes that are not in there are the pipeline's own and not checked.
    """
    multiple = pixel_multiple(pipeline, arguments)
    for name in ("width", "height"):
        size = arguments.get(name)
        if isinstance(size, int) and (size < 1 or size % multiple):
            near = max(multiple, size // multiple * multiple)
            raise ConfigError(
                f"{name} is {size}, but {type(pipeline).__name__} makes multiples of {multiple}; choose {near} or "
                f"{near + multiple}."
            )
    for name in FRAMES:
        count = arguments.get(name)
        if isinstance(count, int):
            _check_frames(pipeline, count)


def pixel_multiple(pipeline: Any, arguments: Mapping[str, Any]) -> int:
    """What width and height must be a multiple of: the scale of the VAE times the patch of the transformer.

    A UNet fills up what does not divide. Pipelines that make the nearest of a list of sizes and cut it
    (use_resolution_binning) only need the scale of the VAE.
    """
    scale = _first(pipeline, _SPATIAL) or 1
    binning = inspect.signature(type(pipeline).__call__).parameters.get("use_resolution_binning")
    if binning is not None and arguments.get("use_resolution_binning", binning.default):
        return scale
    return scale * _patch(pipeline)


def frame_step(pipeline: Any) -> int:
    """The number of frames is 1 more than a multiple of this; 1 if any number will do."""
    if type(pipeline).__name__ in _ANY_FRAMES:
        return 1
    # CogVideoX decodes two latent frames at a time, the first three together: an even number gives frames too many.
    together = getattr(pipeline.vae, "num_latent_frames_batch_size", 1) if _is_cogvideox(pipeline) else 1
    return (_first(pipeline, _TEMPORAL) or 1) * together


def _check_frames(pipeline: Any, count: int) -> None:
    step, name = frame_step(pipeline), type(pipeline).__name__
    config = getattr(getattr(pipeline, "transformer", None), "config", {})
    if count < 1 or (count - 1) % step:
        near = max(1, (count - 1) // step * step + 1)
        raise ConfigError(
            f"frames is {count}, but {name} makes 1 frame more than multiples of {step}; choose {near} or "
            f"{near + step}."
        )
    if "video_length" in config and count not in (1, config["video_length"]):  # Latte has positions for so many
        raise ConfigError(
            f"frames is {count}, but this {name} was trained for {config['video_length']}; choose "
            f"{config['video_length']} or 1."
        )


def _first(pipeline: Any, names: tuple[str, ...]) -> int | None:
    found = (getattr(pipeline, name, None) for name in names)
    return next((int(value) for value in found if value), None)


def _is_cogvideox(pipeline: Any) -> bool:
    return type(getattr(pipeline, "vae", None)).__name__ == "AutoencoderKLCogVideoX"


def _patch(pipeline: Any) -> int:
    """The pixels of the latents, in each direction, that the transformer takes as one token."""
    own = getattr(pipeline, "transformer_spatial_patch_size", None)
    if own is not None:
        return int(own)
    if hasattr(pipeline, "_pack_latents"):  # as in Flux: two by two, before the transformer
        return 2
    patch = getattr(getattr(pipeline, "transformer", None), "config", {}).get("patch_size", 1)
    return int(patch if isinstance(patch, int) else patch[-1])
