"""The latest video families: {name of the case: (build, keyword arguments of one forward)}."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn
from .first import inputs
from .patched import replaced
from .relatives import wan_relative


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


def seedvr(large=False, **changes):
    """Two blocks of the small model, or of the large one, which is known by its width."""
    arguments = {
        "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "swiglu", "vid_dim": 72, "txt_in_dim": 20, "heads": HEADS,
        "head_dim": 24, "mm_layers": 1, "expand_ratio": 2, "rope_dim": 24, "vid_out_norm": not large or None,
        "rope_type": "rope3d" if large else "mmrope3d",
    }  # fmt: skip
    module = build("comfy.ldm.seedvr.model.NaDiT", **arguments | changes)
    for block in module.blocks if large else ():
        block.version = block.attn.version_7b = True
    return module


def seedvr_inputs(films=2):
    """Films of three frames of 15 tokens, and a text each."""
    given = {"x": randn(films, 16, 3, 10, 6), "condition": randn(films, 17, 3, 10, 6), "context": randn(films, 7, 20)}
    options = {"cond_or_uncond": list(range(films))}
    return given | {"timestep": torch.tensor([300.0, 800.0])[:films], "transformer_options": options}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    double = ("double_block", 0)
    per_frame = {"timestep": torch.rand(2, 3, generator=torch.Generator().manual_seed(1))}
    frame = randn(1, 4, 1, 10, 6, seed=5)
    keyframe = {"keyframes": [{"resolved_frame_index": 0, "latent": frame}], "cond_video_latents": [frame]}
    tags = {"text_token_tags": torch.tensor([[1, 1, 0, 0, 1, 1, 1]])}
    return {
        "wan dancer": (dancer, dancer_inputs()),
        "wan dancer, time step per frame": (dancer, dancer_inputs() | per_frame),
        "wan dancer, other frame rate, time step per frame": (dancer, dancer_inputs(fps=25) | per_frame),
        "wan dancer, blocks around, time step per frame": (dancer, dancer_inputs() | per_frame | replaced(double)),
        "wan causal": (causal, inputs("wan")),
        "wan causal, time step per frame": (causal, inputs("wan") | per_frame),
        "wan causal, blocks around": (causal, inputs("wan") | replaced(double)),
        "seedvr": (seedvr, seedvr_inputs()),
        "seedvr, large, one film": (lambda: seedvr(large=True, mlp_type="normal"), seedvr_inputs(films=1)),
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
