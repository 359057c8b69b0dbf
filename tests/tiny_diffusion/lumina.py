"""Lumina 2 and Z-Image, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .patches import behind


def lumina(kind="NextDiT", **changes):
    """Two layers and a refiner each of Z-Image, whose modulation is at least 256 wide."""
    arguments = {
        "patch_size": 2, "in_channels": 4, "dim": 48 * HEADS, "n_layers": 2, "n_refiner_layers": 1, "n_heads": HEADS,
        "multiple_of": 8, "ffn_dim_multiplier": 1.0, "qk_norm": True, "cap_feat_dim": 20, "axes_dims": [16, 16, 16],
        "axes_lens": [64, 64, 64], "z_image_modulation": True,
    }  # fmt: skip
    return build(f"comfy.ldm.lumina.model.{kind}", **arguments | changes)


def lumina_inputs(text=7):
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 10, 6), "timesteps": TIMES, "context": randn(2, text, 20), "num_tokens": text}


def pixel_space(**changes):
    """As Lumina, with a decoder to pixels."""
    decoder = {"decoder_hidden_size": 16, "decoder_num_res_blocks": 1, "decoder_max_freqs": 2}
    return lumina("NextDiTPixelSpace", **decoder | changes)


def _in_place(args):
    args["img"][:, :5] += (
        args["txt"].mean(1, keepdim=True) * args["img_input"][:, :5] + args["pe"][:, :5, 0, :1, 0, 0, None].sum()
    )
    return {}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    omni = lumina_inputs() | {"ref_latents": [randn(1, 4, 4, 6)], "ref_contexts": [randn(1, 5, 20)]}
    return {
        "lumina": (lambda: lumina(z_image_modulation=False, n_kv_heads=2), lumina_inputs()),
        "lumina, padded (Z-Image)": (lambda: lumina(pad_tokens_multiple=8), lumina_inputs()),
        "lumina, reference latent at time 0 (Z-Image Omni)": (lambda: lumina(pad_tokens_multiple=4), omni),
        "lumina, pixel space": (pixel_space, lumina_inputs()),
        "lumina, pixel space, reference latent at time 0": (lambda: pixel_space(pad_tokens_multiple=4), omni),
        "lumina, patch behind every block (Z-Image ControlNet)": (
            lambda: lumina(pad_tokens_multiple=8),
            lumina_inputs() | behind(_in_place),
        ),
        "lumina, pixel space, patch behind every block": (pixel_space, lumina_inputs() | behind(_in_place)),
    }
