"""Wan and its relatives, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, build, inputs, randn
from .patches import behind, replaced


def wan(**changes):
    """Two blocks of Wan 2.1, text to video."""
    arguments = {
        "model_type": "t2v", "in_dim": 4, "dim": 12 * HEADS, "ffn_dim": 96, "freq_dim": 32, "text_dim": 20,
        "out_dim": 4, "num_heads": HEADS, "num_layers": 2,
    }  # fmt: skip
    return build("comfy.ldm.wan.model.WanModel", **arguments | changes)


def wan_relative(kind, **changes):
    """Two blocks of one of Wan's relatives."""
    arguments = {
        "in_dim": 4, "dim": 24 * HEADS, "ffn_dim": 96, "freq_dim": 32, "text_dim": 20, "out_dim": 4,
        "num_heads": HEADS, "num_layers": 2,
    }  # fmt: skip
    return build(f"comfy.ldm.wan.{kind}", **arguments | changes)


class _Average(torch.nn.Linear):
    """A motion encoder that takes no minute: it runs before the blocks, on all frames. Other packs' kinds of layers are
    no change of a model, and no workflow has put it there."""

    def __init__(self):
        super().__init__(1, 1)

    def get_motion(self, faces):
        return faces.flatten(1).unflatten(1, (512, -1)).mean(2)


def animate():
    """Five blocks, behind the first of which the faces join."""
    module = wan_relative("model_animate.AnimateWanModel", num_layers=5)
    module.motion_encoder = _Average()
    return module


def animate_inputs():
    """Three frames of 15 tokens, a text, and a film of a face."""
    return inputs("wan") | {"face_pixel_values": randn(2, 3, 8, 32, 32) * 4, "clip_fea": randn(2, 11, 1280)}


def sound_to_video():
    """Two blocks, with sound behind each."""
    return wan_relative("model.WanModel_S2V", in_dim=16, audio_dim=32, audio_inject_layers=[0, 1], num_audio_token=4)


def sound_inputs():
    """Three frames of 15 tokens, a reference of 15, a text and sound."""
    sound = {"audio_embed": randn(2, 25, 32, 12), "reference_latent": randn(2, 16, 1, 10, 6)}
    return inputs("wan") | {"x": randn(2, 16, 3, 10, 6)} | sound


def humo():
    """Two blocks, with sound in each."""
    return wan_relative("model.HumoWanModel")


def humo_inputs():
    """Three frames of 15 tokens, a reference of 15, a text and sound."""
    sound = {"audio_embed": randn(2, 3, 8, 5, 1280), "reference_latent": randn(2, 4, 1, 10, 6)}
    return inputs("wan") | sound


def dancer():
    """Two blocks, with music behind each."""
    return wan_relative(
        "model_wandancer.WanDancerModel",
        audio_inject_layers=[0, 1],
        music_dim=24,
        music_heads=2,
        music_latent_dim=24,
    )


def dancer_inputs(fps=30):
    """Three frames of 16 tokens, a text, two pictures, and music, of which a frame hears 8 tokens."""
    pictures = {"clip_fea": randn(2, 11, 1280), "clip_fea_ref": randn(2, 11, 1280, seed=4)}
    return inputs("wan", height=8) | pictures | {"x": randn(2, 4, 3, 8, 8), "audio_embed": randn(2, 30, 35), "fps": fps}


def causal():
    """Two blocks of the causal model."""
    return wan_relative("ar_model.CausalWanModel")


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    to_video = {"clip_fea": randn(2, 11, 1280)}
    per_frame = {"timestep": torch.rand(2, 3, generator=torch.Generator().manual_seed(1))}
    vace = {"vace_context": randn(2, 2, 8, 3, 10, 6), "vace_strength": [1.0, 0.5]}
    pose = {
        "pose_latents": randn(2, 4, 3, 4, 6),
        "reference_latent": randn(2, 4, 1, 10, 6),
        "clip_fea": randn(2, 11, 1280),
    }
    double = ("double_block", 0)
    last = ("double_block", 1)
    return {
        "wan": (wan, inputs("wan")),
        "wan, reference latent": (
            lambda: wan(in_dim_ref_conv=4),
            inputs("wan") | {"reference_latent": randn(2, 4, 10, 6)},
        ),
        "wan, image to video": (lambda: wan(model_type="i2v"), inputs("wan", height=6) | to_video),
        "wan, time step per frame": (wan, inputs("wan") | per_frame),
        "wan, time step per frame, reference latent": (
            lambda: wan(in_dim_ref_conv=4),
            inputs("wan", height=6) | per_frame | {"reference_latent": randn(2, 4, 6, 6)},
        ),
        "wan vace": (
            lambda: wan_relative("model.VaceWanModel", vace_layers=2, vace_in_dim=8),
            inputs("wan") | vace,
        ),
        "wan camera": (
            lambda: wan_relative("model.CameraWanModel", in_dim_control_adapter=2),
            inputs("wan") | {"camera_conditions": randn(2, 2, 3, 80, 48), "clip_fea": randn(2, 11, 1280)},
        ),
        "wan scail": (lambda: wan_relative("model.SCAILWanModel"), inputs("wan") | pose),
        "wan scail 2": (
            lambda: wan_relative("model.SCAIL2WanModel", mask_in_dim=6),
            inputs("wan") | pose | {"sam_latents": randn(2, 6, 3, 4, 6), "ref_mask_latents": randn(2, 6, 4, 10, 6)},
        ),
        "wan animate": (animate, animate_inputs()),
        "wan sound to video": (sound_to_video, sound_inputs()),
        "wan humo": (humo, humo_inputs()),
        "wan, blocks around": (wan, inputs("wan") | replaced(double)),
        "wan, patch behind every block, time step per frame": (wan, inputs("wan") | behind() | per_frame),
        "wan animate, blocks around, time step per frame": (animate, animate_inputs() | replaced(double) | per_frame),
        "wan animate, time step per frame": (animate, animate_inputs() | per_frame),
        "wan sound to video, patch behind every block": (sound_to_video, sound_inputs() | behind()),
        "wan humo, blocks around": (humo, humo_inputs() | replaced(last)),
        "wan humo, time step per frame": (humo, humo_inputs() | per_frame),
        "wan dancer": (dancer, dancer_inputs()),
        "wan dancer, time step per frame": (dancer, dancer_inputs() | per_frame),
        "wan dancer, other frame rate, time step per frame": (dancer, dancer_inputs(fps=25) | per_frame),
        "wan dancer, blocks around, time step per frame": (dancer, dancer_inputs() | per_frame | replaced(double)),
        "wan causal": (causal, inputs("wan")),
        "wan causal, time step per frame": (causal, inputs("wan") | per_frame),
        "wan causal, blocks around": (causal, inputs("wan") | replaced(double)),
    }
