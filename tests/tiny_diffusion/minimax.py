"""MiniMax H3, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn
from .patches import replaced


def minimax(**changes):
    """Two blocks of MiniMax H3."""
    arguments = {
        "hidden_size": 72, "num_layers": 2, "token_refiner_num_layers": 1, "num_attention_heads": HEADS,
        "attention_head_dim": 16, "ffn_hidden_size": 96, "latents_dim": 4, "audio_latents_dim": 4, "text_dim": 20,
        "timestep_input_dim": 32, "time_embed_hidden_size": 48, "time_embed_dim": 24, "rope_inv_freq_len": 2,
    }  # fmt: skip
    module = build("comfy.ldm.minimax.model.MiniMaxH3Model", **arguments | changes)
    module.rope.inv_freq.copy_(torch.tensor([1.0, 0.1]))  # a file has them, the class leaves them open
    if module.use_adaln_curves:
        module.adaln_t_table.copy_(randn(*module.adaln_t_table.shape))
    return module


def _around_tokens(args, extra):
    """As `replaced` does, on tokens without a batch."""

    def changed(tokens):
        return tokens * torch.linspace(0.5, 1.5, len(tokens), device=tokens.device)[:, None] + tokens.roll(1, 0) / 4

    return {"img": changed(extra["original_block"](args | {"img": changed(args["img"])})["img"])}


def minimax_inputs():
    """Three frames of 15 tokens, 12 tokens of sound, and a text."""
    return {
        "x": [randn(1, 4, 3, 10, 6), randn(1, 4, 2, 6)],
        "timestep": torch.tensor([400.0]),
        "context": randn(1, 7, 72),
    }


def _minimax_references():
    """A picture, and a film with sound, to go by."""
    film = {"kind": "video_audio", "latent_t": 2, "latent_h": 4, "latent_w": 6, "ref_audio_t": 3}
    return {
        "refs": [{"kind": "image", "latent_h": 6, "latent_w": 4}, film],
        "cond_video_latents": [randn(1, 4, 1, 6, 4), randn(1, 4, 2, 4, 6)],
        "cond_audio_latents": [randn(1, 4, 2, 3)],
        "audio_cond_noise_aug": 0.9,
    }


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    tags = {"text_token_tags": torch.tensor([[1, 1, 0, 0, 1, 1, 1]])}
    frame = randn(1, 4, 1, 10, 6, seed=5)
    keyframe = {"keyframes": [{"resolved_frame_index": 0, "latent": frame}], "cond_video_latents": [frame]}
    double = ("double_block", 0)
    return {
        "minimax": (minimax, minimax_inputs()),
        "minimax, keyframe and pictures in the text": (
            minimax,
            minimax_inputs() | {"minimax_payload": keyframe | tags},
        ),
        "minimax, references, unrefined text": (
            lambda: minimax(adaln_curve_grid=5),
            minimax_inputs() | {"minimax_payload": _minimax_references(), "context": randn(1, 6, 20)},
        ),
        "minimax, blocks around, keyframe": (
            minimax,
            minimax_inputs() | {"minimax_payload": keyframe} | replaced(double, by=_around_tokens),
        ),
    }
