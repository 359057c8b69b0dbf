"""Scenes for LTX-2, which has video and audio in one latent, made by ComfyUI's nodes, with a tiny model."""

from __future__ import annotations

import functools

import comfy.supported_models as supported
import comfy_extras.nodes_lt as lt
import torch
from features import loras
from features.scenes import HEADS, Scene, built, replace
from video_controls import guided

VIDEO, SOUND = (128, 5, 3, 3), (8, 21, 16)
TEXT = 24
_MODEL = {
    "image_model": "ltxav", "in_channels": 128, "audio_in_channels": 128, "cross_attention_dim": 12 * HEADS,
    "audio_cross_attention_dim": 8 * HEADS, "attention_head_dim": 12, "audio_attention_head_dim": 8,
    "num_attention_heads": HEADS, "audio_num_attention_heads": HEADS, "caption_channels": TEXT, "num_layers": 2,
    "connector_attention_head_dim": 12, "connector_num_attention_heads": 2, "connector_num_layers": 1,
    "rope_type": "split",
}  # fmt: skip


@functools.cache
def model():
    """The MODEL of a tiny LTX-2."""
    return built(supported.LTXAV, _MODEL)


def _text(seed: int) -> list:
    text = torch.randn((1, 7, 2 * TEXT), generator=torch.Generator().manual_seed(seed))
    return [[text, {"attention_mask": torch.tensor([[1] * 5 + [0] * 2])}]]


def _content(shape: tuple[int, ...], batch: int) -> torch.Tensor:
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(7))


def together(video: dict, sound: dict) -> dict:
    """The joint latent of LTXVConcatAVLatent."""
    return lt.LTXVConcatAVLatent.execute(video, sound)[0]


def plain(batch: int = 1) -> Scene:
    """Two prompts and an empty latent."""
    latent = together({"samples": torch.zeros(batch, *VIDEO)}, {"samples": torch.zeros(batch, *SOUND)})
    return Scene("ltxav", model(), _text(1), _text(2), latent)


def inpainting(batch: int = 1) -> Scene:
    """Inpainting: a mask over a part of the picture and the end of the sound."""
    video, sound = torch.zeros(batch, 1, *VIDEO[1:]), torch.zeros(batch, *SOUND)
    video[..., :2, :] = 1
    sound[:, :, 10:] = 1
    latent = together(
        {"samples": _content(VIDEO, batch), "noise_mask": video},
        {"samples": _content(SOUND, batch), "noise_mask": sound},
    )
    return replace(plain(batch), latent=latent)


def first_frames(batch: int = 1) -> Scene:
    """The first two frames are given (mask 0.1), the sound is generated."""
    mask = torch.ones(batch, 1, VIDEO[1], 1, 1)
    mask[:, :, :2] = 0.1
    latent = together({"samples": _content(VIDEO, batch), "noise_mask": mask}, {"samples": torch.zeros(batch, *SOUND)})
    return replace(plain(batch), latent=latent)


def guides(batch: int = 1) -> Scene:
    """LTXVAddGuide: two guides with strengths other than 1."""
    video = replace(plain(), latent={"samples": torch.zeros(batch, *VIDEO)})
    made = guided(0.5, 2.0, plain=video)
    sound = {"samples": torch.zeros(batch, *SOUND)}
    return replace(plain(batch), positive=made.positive, negative=made.negative, latent=together(made.latent, sound))


def lora(batch: int = 1) -> Scene:
    """Two stacked LoRAs."""
    return replace(plain(batch), model=loras.with_two(model()))


def reference_sound(batch: int = 1) -> Scene:
    """Tokens of a reference voice in both prompts, as LTXVReferenceAudio sets them."""
    voice = {"ref_audio": {"tokens": torch.randn((1, 4, 128), generator=torch.Generator().manual_seed(8))}}
    scene = plain(batch)
    given = {name: [[text, about | voice] for text, about in getattr(scene, name)] for name in ("positive", "negative")}
    return replace(scene, **given)
