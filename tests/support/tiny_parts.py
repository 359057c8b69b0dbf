"""The small parts of which tiny_pipelines.py makes pipelines: tokenizers, text and image encoders, VAEs, a vocoder.

All are classes of transformers and diffusers with a few thousand random weights; nothing is downloaded.
"""

from __future__ import annotations

import string

import diffusers
import transformers

WIDTH = 32  # of every text encoder, unless another one is given
TEXT_TOKENS = 16  # a text encoder never gives more


def _letters() -> list[str]:
    return [*string.ascii_lowercase, *string.digits, *string.punctuation]


def t5_tokenizer() -> transformers.T5Tokenizer:
    """One token for each letter."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in _letters()]
    return transformers.T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=TEXT_TOKENS)


def clip_tokenizer() -> transformers.CLIPTokenizer:
    """One token for each letter, another one for the last letter of a word."""
    words = ["<|startoftext|>", "<|endoftext|>", *_letters(), *(letter + "</w>" for letter in _letters())]
    return transformers.CLIPTokenizer(
        vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=TEXT_TOKENS
    )


def roberta_tokenizer() -> transformers.RobertaTokenizer:
    """One token for each letter."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *_letters(), "Ġ"]
    return transformers.RobertaTokenizer(
        vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=TEXT_TOKENS
    )


def t5_encoder(width: int = WIDTH) -> transformers.T5EncoderModel:
    """Text to (B, L, width)."""
    config = transformers.T5Config(vocab_size=128, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return transformers.T5EncoderModel(config)


def umt5_encoder() -> transformers.UMT5EncoderModel:
    """Text to (B, L, WIDTH)."""
    config = transformers.UMT5Config(vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return transformers.UMT5EncoderModel(config)


def clip_config() -> transformers.CLIPTextConfig:
    """Of a text encoder that gives (B, L, WIDTH) and, projected, (B, WIDTH)."""
    return transformers.CLIPTextConfig(
        vocab_size=256, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS, projection_dim=WIDTH, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def clip_vision_model() -> transformers.CLIPVisionModelWithProjection:
    """Pictures (B, 3, 224, 224), the size that SVD resizes to, to (B, WIDTH)."""
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=224,
        patch_size=56, projection_dim=WIDTH,
    )  # fmt: skip
    return transformers.CLIPVisionModelWithProjection(config)


def clap_model() -> transformers.ClapModel:
    """Text to (B, WIDTH); the audio half is there because the class has it."""
    text = {
        "vocab_size": 128, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": TEXT_TOKENS + 2, "projection_dim": WIDTH,
    }  # fmt: skip
    audio = {
        "spec_size": 64, "window_size": 4, "num_mel_bins": 64, "depths": [1, 1], "num_attention_heads": [2, 2],
        "hidden_size": 32, "patch_embeds_hidden_size": 16, "patch_size": 4, "patch_stride": [4, 4],
        "projection_dim": WIDTH, "num_hidden_layers": 2,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=WIDTH)
    return transformers.ClapModel(config)


def gpt2_model() -> transformers.GPT2LMHeadModel:
    """Continues (B, L, WIDTH)."""
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=4, max_new_tokens=8, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def vocoder() -> transformers.SpeechT5HifiGan:
    """Mel spectra (B, T, 64) to sound, 160 samples per frame, 100 frames per second."""
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=64, sampling_rate=16000, upsample_initial_channel=16, upsample_rates=[5, 4, 4, 2],
        upsample_kernel_sizes=[11, 8, 8, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3, 5]],
        normalize_before=False,
    )  # fmt: skip
    return transformers.SpeechT5HifiGan(config)


def vae(channels: int, latent_channels: int = 4, levels: int = 4, **more: object) -> diffusers.AutoencoderKL:
    """Pictures (B, channels, H, W) to latents of 1 / 2 ** (levels - 1) the size."""
    return diffusers.AutoencoderKL(
        in_channels=channels, out_channels=channels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=(8,) * levels, norm_num_groups=4,
        latent_channels=latent_channels, **more,
    )  # fmt: skip


def svd_vae() -> diffusers.AutoencoderKLTemporalDecoder:
    """Pictures (B, 3, H, W) to latents (B, 4, H / 8, W / 8)."""
    return diffusers.AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4, latent_channels=4
    )


def cogvideox_vae() -> diffusers.AutoencoderKLCogVideoX:
    """Videos (B, 3, 1 + 4 F, H, W) to latents (B, 4, 1 + F, H / 8, W / 8)."""
    return diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4, sample_height=64,
        sample_width=64, scaling_factor=1.15,
    )  # fmt: skip


def wan_vae() -> diffusers.AutoencoderKLWan:
    """Videos (B, 3, 1 + 4 F, H, W) to latents (B, 16, 1 + F, H / 8, W / 8)."""
    return diffusers.AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
