"""Stable Audio, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn


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


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
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
    }
