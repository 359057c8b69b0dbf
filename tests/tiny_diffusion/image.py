"""Image families: {name of the case: (build, keyword arguments of one forward)}, 15 image tokens, two batch entries."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn
from .first import FLUX2, flux, inputs, sd3

TIMES = torch.tensor([0.3, 0.8])
REFERENCE = {"ref_latents": [randn(2, 4, 4, 6)], "ref_latents_method": "index_timestep_zero"}


def control(channels, tokens=15, double=2, single=2):
    """What a ControlNet adds to the first tokens behind each double and each single block; not behind every one."""
    return {
        "control": {
            "input": [randn(2, tokens, channels, seed=i) for i in range(double - 1)] + [None],
            "output": [None] + [randn(2, tokens, channels, seed=9 + i) for i in range(single - 1)],
        }
    }


def qwen(**changes):
    """Two blocks of Qwen-Image."""
    arguments = {
        "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 12, "num_attention_heads": HEADS,
        "joint_attention_dim": 20, "axes_dims_rope": (4, 4, 4),
    }  # fmt: skip
    return build("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel", **arguments | changes)


def qwen_inputs(text=7):
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 1, 10, 6), "timestep": TIMES, "context": randn(2, text, 20, seed=text)}


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


def chroma(kind="chroma.model.Chroma", **changes):
    """Two double and two single blocks, whose modulations a small network makes from 344 numbers."""
    arguments = {
        "in_channels": 16, "out_channels": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS, "mlp_ratio": 2.0,
        "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4], "theta": 10000,
        "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 12 * HEADS, "hidden_dim": 32, "n_layers": 1,
        "txt_ids_dims": [], "vec_in_dim": 16,
    }  # fmt: skip
    return build(f"comfy.ldm.{kind}", **arguments | changes)


def radiance():
    """As Chroma, with a decoder to pixels."""
    return chroma(
        "chroma_radiance.model.ChromaRadiance", in_channels=3, out_channels=3, nerf_hidden_size=8, nerf_mlp_ratio=2,
        nerf_depth=1, nerf_max_freqs=2, nerf_tile_size=4, nerf_final_head_type="conv", nerf_embedder_dtype=None,
        use_x0=False, use_sequential_txt_ids=True,
    )  # fmt: skip


def chroma_inputs(channels=4):
    """A picture of 15 tokens and a text."""
    guidance = torch.tensor([0.0, 2.0])
    return {"x": randn(2, channels, 10, 6), "timestep": TIMES, "context": randn(2, 7, 20), "guidance": guidance}


def aura():
    """One double and two single layers."""
    return build(
        "comfy.ldm.aura.mmdit.MMDiT", in_channels=4, out_channels=4, dim=12 * HEADS, n_layers=3, n_double_layers=1,
        n_heads=HEADS, global_conddim=12 * HEADS, cond_seq_dim=20, max_seq=64,
    )  # fmt: skip


def aura_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 10, 6), "timestep": TIMES, "context": randn(2, 7, 20)}


def hidream():
    """Two double and two single blocks, with experts."""
    return build(
        "comfy.ldm.hidream.model.HiDreamImageTransformer2DModel", patch_size=2, in_channels=4, num_layers=2,
        num_single_layers=2, attention_head_dim=12, num_attention_heads=HEADS, caption_channels=[20, 24],
        text_emb_dim=16, num_routed_experts=2, num_activated_experts=1, axes_dims_rope=(4, 4, 4),
        max_resolution=(32, 32), llama_layers=[0, 1, 2, 2],
    )  # fmt: skip


def hidream_inputs():
    """A picture of 15 tokens, T5's text and three layers of Llama's."""
    llama = randn(2, 3, 8, 24)
    given = {"x": randn(2, 4, 10, 6), "t": TIMES * 1000, "y": randn(2, 16), "context": randn(2, 7, 20)}
    return given | {"encoder_hidden_states_llama3": llama}


def pixart():
    """Two blocks."""
    return build(
        "comfy.ldm.pixart.pixartms.PixArtMS", input_size=8, in_channels=4, hidden_size=12 * HEADS, depth=2,
        num_heads=HEADS, caption_channels=20, model_max_length=7, qk_norm=False,
    )  # fmt: skip


def pixart_inputs():
    """A picture of 155 tokens, as fewer have no positions, and a text."""
    return {"x": randn(2, 4, 62, 10), "timesteps": TIMES * 1000, "context": randn(2, 7, 20)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    text_mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    omni = lumina_inputs() | {"ref_latents": [randn(1, 4, 4, 6)], "ref_contexts": [randn(1, 5, 20)]}
    return {
        "flux, ControlNet": (flux, inputs("flux") | control(72)),
        "flux, ControlNet and reference latent": (
            flux,
            inputs("flux") | control(72) | REFERENCE | {"ref_latents_method": "offset"},
        ),
        "flux, reference latent at time 0": (lambda: flux(**FLUX2), inputs("flux") | REFERENCE),
        "sd3, ControlNet": (sd3, inputs("sd3") | control(64 * HEADS)),
        "qwen": (qwen, qwen_inputs()),
        "qwen, mask of the text": (qwen, qwen_inputs() | {"attention_mask": text_mask}),
        "qwen, reference latent": (qwen, qwen_inputs() | {"ref_latents": [randn(2, 4, 1, 4, 6)]}),
        "qwen, reference latent at time 0": (
            qwen,
            qwen_inputs() | REFERENCE | {"ref_latents": [randn(2, 4, 1, 4, 6)]},
        ),
        "qwen, ControlNet": (qwen, qwen_inputs(5) | control(72, double=2)),
        "lumina": (lambda: lumina(z_image_modulation=False, n_kv_heads=2), lumina_inputs()),
        "lumina, padded (Z-Image)": (lambda: lumina(pad_tokens_multiple=8), lumina_inputs()),
        "lumina, reference latent at time 0 (Z-Image Omni)": (lambda: lumina(pad_tokens_multiple=4), omni),
        "lumina, pixel space": (pixel_space, lumina_inputs()),
        "lumina, pixel space, reference latent at time 0": (lambda: pixel_space(pad_tokens_multiple=4), omni),
        "chroma": (chroma, chroma_inputs()),
        "chroma, ControlNet": (chroma, chroma_inputs() | control(72)),
        "chroma radiance": (radiance, chroma_inputs(3)),
        "aura": (aura, aura_inputs()),
        "hidream": (hidream, hidream_inputs()),
        "hidream, edited image": (hidream, hidream_inputs() | {"image_cond": randn(2, 4, 10, 6, seed=8)}),
        "pixart": (pixart, pixart_inputs()),
    }
