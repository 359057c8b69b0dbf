"""Turns the inputs of the node into the keyword arguments of a pipeline's `__call__`, by its signature.

An input that nobody set (0, 0.0, "" or no image) is not passed, so the pipeline's own default holds. An input that is
set but that the pipeline does not take is an error. What the pool decides itself (generator, output_type, callbacks)
can never be set.

Which argument is the guidance: `guidance_scale`, or SVD's `max_guidance_scale`. Pipelines with `true_cfg_scale` have
distilled models, where `guidance_scale` says what the model is told and `true_cfg_scale` how far the result moves away
from the negative prompt. There the guidance is `true_cfg_scale` if there is a negative prompt, or if the model is told
nothing (Qwen-Image), and `guidance_scale` otherwise. To set both, use `arguments`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..config import ConfigError, JsonForm
from .sizes import FRAMES, check_sizes

SECONDS = ("audio_length_in_s", "audio_end_in_s", "audio_duration", "audio_duration_s", "duration")
IMAGES = ("image", "video", "images", "input_images")
# The inputs, with the arguments of __call__ that they may be.
PLACES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "negative_prompt": ("negative_prompt",),
    "steps": ("num_inference_steps",),
    "guidance": ("guidance_scale", "max_guidance_scale", "true_cfg_scale"),
    "width": ("width",),
    "height": ("height",),
    "frames": FRAMES,
    "seconds": SECONDS,
    "fps": ("fps", "frame_rate"),
    "image": IMAGES,
}
_OURS = ("generator", "output_type", "return_dict", "callback_steps", "callback_on_step_end_tensor_inputs")
_OBJECTS = ("Tensor", "Generator", "Callable", "Callback", "Image", "ndarray")  # in an annotation: no JSON can be it


@dataclass(frozen=True)
class PipelineInputs(JsonForm):
    """What the node offers for one run; the image travels beside it, as a tensor.

    0, 0.0 and "" stand for the pipeline's own default. guidance 1 switches guidance off; to say 0, as some distilled
    models want, use `arguments`, whose entries win over the other inputs.
    """

    title = "Sample Pipeline"
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 0
    guidance: float = 0.0
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0
    fps: int = 0
    scheduler: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seed", "steps", "guidance", "width", "height", "frames", "seconds", "fps"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                default = "" if name == "seed" else ", where 0 is the pipeline's own default"
                raise ConfigError(f"{name} is {value}; it must be 0 or more{default}.")
        if not isinstance(self.arguments, dict):
            raise ConfigError(f'arguments is {self.arguments!r}; write a JSON object, such as {{"eta": 0.5}}.')


def parse_arguments(text: str) -> dict[str, Any]:
    """The node's `arguments`: a JSON object, or nothing. Raises ConfigError for anything else."""
    try:
        content = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigError(f'arguments is not JSON ({error}); write an object, such as {{"eta": 0.5}}.') from error
    if not isinstance(content, dict):
        raise ConfigError(f'arguments is {text!r}; write a JSON object, such as {{"eta": 0.5}}.')
    return content


def call_arguments(pipeline: Any, inputs: PipelineInputs, image: torch.Tensor | None = None) -> dict[str, Any]:
    """As `keyword_arguments`, for a loaded pipeline: sizes and frame counts that it cannot make raise ConfigError."""
    arguments = keyword_arguments(type(pipeline), inputs, image)
    check_sizes(pipeline, arguments)
    return arguments


def keyword_arguments(pipeline: type, inputs: PipelineInputs, image: torch.Tensor | None = None) -> dict[str, Any]:
    """What to call a pipeline of this class with. image: (B, H, W, 3), 0 to 1.

    Raises ConfigError for an input that the class does not take, for a missing one that it needs, and for an entry of
    `arguments` that is unknown, ours, or no JSON value.
    """
    takes = _parameters(pipeline)
    chosen: dict[str, Any] = {}
    for name in PLACES:
        value = image if name == "image" else getattr(inputs, name)
        is_set = image is not None if name == "image" else bool(value)
        place = _place(name, takes, inputs)
        if is_set and place is None:
            taken = ", ".join(each for each in PLACES if _place(each, takes, inputs))
            raise ConfigError(
                f"{name} is set, but {pipeline.__name__} does not take it; leave it at its default. It takes {taken}."
            )
        if place is not None and (is_set or name == "prompt"):
            chosen[place] = to_pictures(value) if name == "image" else value
    if len(chosen.get("image", ())) == 1:
        chosen["image"] = chosen["image"][0]
    _check_arguments(pipeline, takes, inputs.arguments)
    chosen |= inputs.arguments
    _check_complete(pipeline, takes, chosen)
    _check_guidance(pipeline, takes, chosen, inputs)
    return chosen


def to_pictures(image: torch.Tensor) -> list[Any]:
    """The B pictures (PIL, RGB) of an image (B, H, W, 3) with values 0 to 1."""
    from PIL import Image

    if image.ndim != 4 or image.shape[-1] != 3:
        raise ConfigError(
            f"image has the shape {tuple(image.shape)}; pipelines take (pictures, height, width, 3 colours), so take "
            "other channels, such as transparency, away."
        )
    pixels_BHWC = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return [Image.fromarray(pixels_HWC) for pixels_HWC in pixels_BHWC]


def result_kind(pipeline: type) -> str:
    """What a pipeline of this class gives: "image", "video" or "audio". Raises ConfigError for anything else.

    Read from the fields of what __call__ is annotated to return, or else from what it takes.
    """
    returns = inspect.signature(pipeline.__call__).return_annotation
    outputs = [each for each in (typing.get_args(returns) or (returns,)) if dataclasses.is_dataclass(each)]
    fields = {each.name for output in outputs for each in dataclasses.fields(output)}
    kinds = {"video": {"frames", "video"}, "audio": {"audios"}, "image": {"images", "image"}}
    for kind, names in kinds.items():
        if fields & names:
            return kind
    takes = _parameters(pipeline)
    if not fields:
        if _first((*FRAMES, "video"), takes):
            return "video"
        if _first(SECONDS, takes):
            return "audio"
        if {"width", "height", "image", "image_embeddings"} & set(takes):
            return "image"
    raise ConfigError(
        f"folder: its pipeline is {pipeline.__name__}, which gives {', '.join(sorted(fields)) or 'no picture'}; choose "
        "one that makes pictures, videos or sound."
    )


def _parameters(pipeline: type) -> dict[str, inspect.Parameter]:
    parameters = list(inspect.signature(pipeline.__call__).parameters.values())[1:]
    return {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}


def _first(names: tuple[str, ...], takes: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in takes), None)


def _place(name: str, takes: Mapping[str, inspect.Parameter], inputs: PipelineInputs) -> str | None:
    """The argument of __call__ that an input is; None if the pipeline does not take it."""
    told = takes.get("guidance_scale")
    if name == "guidance" and "true_cfg_scale" in takes:
        return "true_cfg_scale" if inputs.negative_prompt or told is None or told.default is None else "guidance_scale"
    return _first(PLACES[name], takes)


def _check_arguments(pipeline: type, takes: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]) -> None:
    allowed = sorted(name for name, each in takes.items() if name not in _OURS and not _is_object(each))
    for name in arguments:
        if name in allowed:
            continue
        if name in _OURS or name.startswith("callback"):
            raise ConfigError(f"arguments sets {name}, which the workers set themselves; take it out.")
        if name in takes:
            raise ConfigError(
                f"arguments sets {name}, which is no JSON value in {pipeline.__name__}; take it out, or use the input "
                "of the node if there is one."
            )
        raise ConfigError(
            f"arguments sets {name}, which {pipeline.__name__} does not take; it takes {', '.join(allowed)}."
        )


def _is_object(parameter: inspect.Parameter) -> bool:
    return any(word in str(parameter.annotation) for word in _OBJECTS)


def _check_complete(pipeline: type, takes: Mapping[str, inspect.Parameter], chosen: Mapping[str, Any]) -> None:
    needed = [name for name, each in takes.items() if each.default is each.empty and name not in chosen]
    missing = [name for name in needed if name in IMAGES]
    if missing:
        raise ConfigError(f"image is missing, and {pipeline.__name__} starts from one; connect an image.")
    objects = [name for name in needed if _is_object(takes[name])]
    if objects:
        raise ConfigError(
            f"{pipeline.__name__} needs {', '.join(objects)}, which no input of the node gives; choose a folder with "
            "another pipeline."
        )
    if needed:
        raise ConfigError(f"{pipeline.__name__} needs {', '.join(needed)}, which no input gives; add it to arguments.")


def _check_guidance(
    pipeline: type, takes: Mapping[str, inspect.Parameter], chosen: Mapping[str, Any], inputs: PipelineInputs
) -> None:
    """Distilled pipelines ignore a negative prompt without guidance, and that guidance without a negative prompt."""
    true = takes.get("true_cfg_scale")
    if true is None:
        return
    scale = chosen.get("true_cfg_scale", true.default)
    if inputs.negative_prompt and isinstance(scale, (int, float)) and scale <= 1:
        raise ConfigError(
            f"negative_prompt is set, but {pipeline.__name__} ignores it without guidance above 1; set guidance, for "
            "example to 4, or leave negative_prompt empty."
        )
    if inputs.guidance > 1 and "true_cfg_scale" in chosen and not chosen.get("negative_prompt"):
        raise ConfigError(
            f"guidance is {inputs.guidance:g}, but {pipeline.__name__} ignores it without a negative prompt; write "
            "one, a single space is enough."
        )
