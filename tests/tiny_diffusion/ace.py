"""ACE-Step 1 and 1.5, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import torch

from .base import HEADS, TIMES, build, randn, use_comfyui
from .changes import after, changed


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


def ace_step():
    """Two layers, and one of the encoder of lyrics, whose size the model does not let choose."""
    use_comfyui()
    import comfy.ldm.ace.model as ace

    encoder = partial(ace.LyricEncoder, output_size=16, attention_heads=2, linear_units=32, num_blocks=1)
    with patch.object(ace, "LyricEncoder", encoder):
        return build(
            "comfy.ldm.ace.model.ACEStepTransformer2DModel", num_layers=2, attention_head_dim=12,
            num_attention_heads=HEADS, mlp_ratio=1.0, max_position=64, text_embedding_dim=20, ssl_latent_dims=[8],
            lyric_encoder_vocab_size=30, lyric_hidden_size=16,
        )  # fmt: skip


def ace_step_inputs():
    """17 tokens of sound, a text and lyrics."""
    lyrics = {"lyric_token_idx": torch.arange(10).reshape(2, 5), "lyrics_strength": 0.8}
    given = {"x": randn(2, 8, 16, 17), "timestep": TIMES, "context": randn(2, 7, 20)}
    return given | {"speaker_embeds": torch.zeros(2, 512)} | lyrics


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "ace": (ace, ace_inputs()),
        "ace step 1": (ace_step, ace_step_inputs()),
        "ace step 1, a block changed": (changed(ace_step, after("transformer_blocks.0")), ace_step_inputs()),
        "ace, a block changed": (changed(ace, after("decoder.layers.0")), ace_inputs()),
    }
