"""Wan's relatives, Kandinsky and sound: {name: (build, keyword arguments of one forward)}, two batch entries."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn
from .first import inputs
from .image import TIMES


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


def kandinsky():
    """Two visual blocks and a text block."""
    return build(
        "comfy.ldm.kandinsky5.model.Kandinsky5", in_visual_dim=4, out_visual_dim=4, in_text_dim=20, in_text_dim2=16,
        time_dim=32, model_dim=12 * HEADS, ff_dim=96, visual_embed_dim=16, num_text_blocks=1, num_visual_blocks=2,
        axes_dims=(4, 4, 4),
    )  # fmt: skip


def kandinsky_inputs():
    """Three frames of 15 tokens, a text, and what is known of it as a whole."""
    return {"x": randn(2, 4, 3, 10, 6), "timestep": TIMES, "context": randn(2, 7, 20), "y": randn(2, 16)}


def stable_audio(**changes):
    """Two layers of Stable Audio."""
    arguments = {
        "io_channels": 4, "embed_dim": 64 * HEADS, "cond_token_dim": 64, "global_cond_dim": 16, "depth": 2,
        "num_heads": HEADS, "project_cond_tokens": False,
    }  # fmt: skip
    module = build("comfy.ldm.audio.dit.AudioDiffusionTransformer", **arguments | changes)
    frequencies = module.transformer.rotary_pos_emb.inv_freq  # a file has them, the class leaves them open
    frequencies.copy_(1e4 ** -torch.linspace(0, 1, len(frequencies)))
    return module


def stable_audio_inputs():
    """16 tokens, a text, and a condition for all."""
    given = {"x": randn(2, 4, 16), "timestep": TIMES, "context": randn(2, 7, 64)}
    return given | {"global_embed": randn(2, 16)}


def ace():
    """Two layers, the first of which attends to its neighbourhood."""
    return build(
        "comfy.ldm.ace.ace_step15.AceStepConditionGenerationModel", in_channels=12, hidden_size=12 * HEADS,
        text_hidden_dim=20, timbre_hidden_dim=4, audio_acoustic_hidden_dim=4, num_dit_layers=2, num_lyric_layers=1,
        num_timbre_layers=1, num_tokenizer_layers=1, num_heads=HEADS, num_kv_heads=HEADS, head_dim=12,
        intermediate_size=96, sliding_window=3, fsq_dim=12 * HEADS, encoder_hidden_size=12 * HEADS,
        encoder_intermediate_size=96, encoder_num_heads=HEADS,
    )  # fmt: skip


def ace_inputs():
    """15 tokens of two samples each, a text, lyrics and a sound to go by."""
    given = {"x": randn(2, 4, 29), "timestep": TIMES, "context": randn(2, 7, 20), "lyric_embed": randn(2, 5, 20)}
    return given | {"refer_audio": randn(2, 4, 29), "is_covers": False}


def ltx_av():
    """Two blocks of LTX-2."""
    return build(
        "comfy.ldm.lightricks.av_model.LTXAVModel", in_channels=8, audio_in_channels=128,
        cross_attention_dim=12 * HEADS, audio_cross_attention_dim=8 * HEADS, attention_head_dim=12,
        audio_attention_head_dim=8, num_attention_heads=HEADS, audio_num_attention_heads=HEADS, caption_channels=20,
        num_layers=2, connector_attention_head_dim=12, connector_num_attention_heads=2, connector_num_layers=1,
        rope_type="split",
    )  # fmt: skip


def ltx_av_inputs():
    """Three frames of 5 tokens, 4 tokens of sound, and a text for both."""
    video, sound = randn(2, 8, 3, 5, 1), randn(2, 8, 4, 16)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return {"x": [video, sound], "timestep": TIMES[:, None], "context": randn(2, 7, 40), "attention_mask": mask}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    vace = {"vace_context": randn(2, 2, 8, 3, 10, 6), "vace_strength": [1.0, 0.5]}
    pose = {
        "pose_latents": randn(2, 4, 3, 4, 6),
        "reference_latent": randn(2, 4, 1, 10, 6),
        "clip_fea": randn(2, 11, 1280),
    }
    seven = torch.rand(2, 15, generator=torch.Generator().manual_seed(1))
    per_frame = seven.reshape(2, 3, 5)[:, :, :1].expand(2, 3, 5).reshape(2, 15, 1)
    both = {"timestep": (per_frame, TIMES[:, None])}
    return {
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
        "kandinsky": (kandinsky, kandinsky_inputs()),
        "stable audio": (stable_audio, stable_audio_inputs()),
        "stable audio, memory, differential, added condition (3)": (
            lambda: stable_audio(
                global_cond_type="adaLN",
                num_memory_tokens=5,
                attn_kwargs={"qk_norm": "rms", "differential": True},
                global_cond_shared_embed=True,
                local_add_cond_dim=6,
            ),
            stable_audio_inputs() | {"local_add_cond": randn(2, 6, 16)},
        ),
        "ace": (ace, ace_inputs()),
        "ltx 2": (ltx_av, ltx_av_inputs()),
        "ltx 2, time step per frame": (ltx_av, ltx_av_inputs() | both),
    }
