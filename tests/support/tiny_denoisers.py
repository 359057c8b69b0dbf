"""Tiny transformers of diffusers, from their configurations, with random weights with which every block matters.

`DENOISERS` has {name: (build, inputs)}. Inputs are of two batch entries, with odd numbers of tokens.
"""

from __future__ import annotations

import importlib
from functools import partial

import torch
from residuals import generator
from torch.nn import functional

TRANSFORMERS = "diffusers.models.transformers"
IMPORTS = (f"{TRANSFORMERS}.transformer_flux", f"{TRANSFORMERS}.transformer_2d", "peft", "accelerate")
"""What takes long to import."""
HEADS, DIM = 4, 16
SIZE = {"num_attention_heads": HEADS, "attention_head_dim": DIM}
ROPE = {"axes_dims_rope": (4, 6, 6)}
TEXT = 7


def build(file, name, **config):
    """The transformer `name` of diffusers' module `file`, in float32."""
    model = getattr(importlib.import_module(f"{TRANSFORMERS}.{file}"), name)(**config)
    random = generator(7)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            values = torch.randn(parameter.shape, generator=random)
            parameter.copy_(1.3 * values / fan_in**0.5 if parameter.ndim > 1 else 0.5 + values / 4)
    return model.eval()


def rand(*shape, seed=1):
    return torch.randn(shape, generator=generator(seed))


TIMES = torch.tensor([700.0, 300.0])
KEPT = torch.arange(TEXT) < torch.tensor([[TEXT], [4]])
"""A mask of text: that of the second batch entry is shorter."""

flux = partial(
    build,
    "transformer_flux",
    "FluxTransformer2DModel",
    in_channels=8,
    num_layers=2,
    num_single_layers=2,
    joint_attention_dim=24,
    pooled_projection_dim=12,
    guidance_embeds=True,
    **SIZE,
    **ROPE,
)
flux2 = partial(
    build,
    "transformer_flux2",
    "Flux2Transformer2DModel",
    in_channels=8,
    num_layers=2,
    num_single_layers=2,
    joint_attention_dim=24,
    timestep_guidance_channels=16,
    axes_dims_rope=(4, 4, 4, 4),
    **SIZE,
)
sd3 = partial(
    build,
    "transformer_sd3",
    "SD3Transformer2DModel",
    sample_size=16,
    in_channels=4,
    num_layers=3,
    joint_attention_dim=24,
    caption_projection_dim=HEADS * DIM,
    pooled_projection_dim=12,
    out_channels=4,
    pos_embed_max_size=16,
    qk_norm="rms_norm",
    dual_attention_layers=(0, 1),
    **SIZE,
)
pixart = partial(
    build,
    "pixart_transformer_2d",
    "PixArtTransformer2DModel",
    in_channels=4,
    out_channels=8,
    num_layers=2,
    cross_attention_dim=HEADS * DIM,
    sample_size=8,
    caption_channels=24,
    **SIZE,
)
cogvideox = partial(
    build,
    "cogvideox_transformer_3d",
    "CogVideoXTransformer3DModel",
    in_channels=4,
    out_channels=4,
    time_embed_dim=16,
    text_embed_dim=24,
    num_layers=2,
    sample_width=10,
    sample_height=6,
    sample_frames=9,
    max_text_seq_length=TEXT,
    **SIZE,
)
latte = partial(
    build,
    "latte_transformer_3d",
    "LatteTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_layers=2,
    cross_attention_dim=HEADS * DIM,
    sample_size=8,
    patch_size=2,
    num_embeds_ada_norm=1000,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    caption_channels=24,
    video_length=3,
    **SIZE,
)
WAN = {
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 24,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
    **SIZE,
}
wan = partial(build, "transformer_wan", "WanTransformer3DModel", **WAN)
chronoedit = partial(build, "transformer_chronoedit", "ChronoEditTransformer3DModel", **WAN)
ltx = partial(
    build,
    "transformer_ltx",
    "LTXVideoTransformer3DModel",
    in_channels=8,
    out_channels=8,
    cross_attention_dim=HEADS * DIM,
    num_layers=2,
    caption_channels=24,
    **SIZE,
)
qwen = partial(
    build,
    "transformer_qwenimage",
    "QwenImageTransformer2DModel",
    in_channels=8,
    out_channels=2,
    num_layers=2,
    joint_attention_dim=24,
    **SIZE,
    **ROPE,
)


def flux_inputs(height=3, width=5):
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(float(height)), torch.arange(float(width)))
    return {
        "hidden_states": rand(2, height * width, 8),
        "encoder_hidden_states": rand(2, TEXT, 24, seed=2),
        "pooled_projections": rand(2, 12, seed=3),
        "timestep": TIMES / 1000,
        "img_ids": ids,
        "txt_ids": torch.zeros(TEXT, 3),
        "guidance": torch.tensor([3.5, 3.5]),
    }


def flux2_inputs():
    given = flux_inputs()
    del given["pooled_projections"]
    positions = {"img_ids": given["img_ids"], "txt_ids": given["txt_ids"] + torch.arange(TEXT)[:, None]}
    return {**given, **{name: functional.pad(ids, (0, 1)).repeat(2, 1, 1) for name, ids in positions.items()}}


def sd3_inputs():
    return {
        "hidden_states": rand(2, 4, 6, 10),
        "encoder_hidden_states": rand(2, TEXT, 24, seed=2),
        "pooled_projections": rand(2, 12, seed=3),
        "timestep": TIMES,
    }


def pixart_inputs():
    return {
        "hidden_states": rand(2, 4, 6, 10),
        "encoder_hidden_states": rand(2, TEXT, 24, seed=2),
        "timestep": TIMES,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "encoder_attention_mask": KEPT.float(),
    }


def cogvideox_inputs(rotary=False):
    return {
        "hidden_states": rand(2, 3, 4, 6, 10),
        "encoder_hidden_states": rand(2, TEXT, 24, seed=2),
        "timestep": TIMES,
        "image_rotary_emb": (rand(45, DIM, seed=3), rand(45, DIM, seed=4)) if rotary else None,
    }


def latte_inputs():
    return {
        "hidden_states": rand(2, 4, 3, 6, 10),
        "encoder_hidden_states": rand(2, TEXT, 24, seed=2),
        "timestep": TIMES,
    }


def wan_inputs(text=TEXT, timestep=TIMES, **more):
    return {
        "hidden_states": rand(2, 4, 3, 6, 10),
        "encoder_hidden_states": rand(2, text, 24, seed=2),
        "timestep": timestep,
        **more,
    }


def ltx_inputs(timestep=TIMES):
    return {
        "hidden_states": rand(2, 21, 8),
        "encoder_hidden_states": rand(2, TEXT, 24, seed=2),
        "timestep": timestep,
        "encoder_attention_mask": KEPT.float(),
        "num_frames": 3,
        "height": 1,
        "width": 7,
    }


def qwen_inputs(*shapes, mask=None):
    return {
        "hidden_states": rand(2, sum(frames * height * width for frames, height, width in shapes), 8),
        "encoder_hidden_states": rand(2, TEXT, 24, seed=2),
        "encoder_hidden_states_mask": mask,
        "timestep": TIMES / 1000,
        "img_shapes": [list(shapes)] * 2,
    }


def per_token(tokens):
    """A time step for each token: that of the first five is 0, as of a given image."""
    return TIMES[:, None].repeat(1, tokens).index_fill(1, torch.arange(5), 0.0)


def control(layers, tokens):
    """The outputs of a ControlNet, for the image tokens."""
    return [rand(2, tokens, HEADS * DIM, seed=10 + layer) for layer in range(layers)]


def with_adapters(model):
    """The model with a LoRA, and with the hook that accelerate offloads weights with."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    from peft import LoraConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "proj_out"], init_lora_weights=False))
    return add_hook_to_module(model, AlignDevicesHook("cpu"))


def few(inputs, **more):
    """Inputs whose sequences have fewer tokens than there are ranks."""
    return {**inputs(), "encoder_hidden_states": rand(2, 1, 24, seed=2), **more}


DENOISERS = {
    "flux": (flux, flux_inputs),
    "flux, control": (
        flux,
        lambda: {
            **flux_inputs(),
            "controlnet_block_samples": control(2, 15),
            "controlnet_single_block_samples": control(1, 15),
        },
    ),
    "flux, LoRA": (
        lambda: with_adapters(flux()),
        lambda: {**flux_inputs(), "joint_attention_kwargs": {"scale": 0.5}},
    ),
    "flux2": (flux2, flux2_inputs),
    "sd3": (partial(sd3, dual_attention_layers=(), qk_norm=None), sd3_inputs),
    "sd3.5": (sd3, lambda: {**sd3_inputs(), "block_controlnet_hidden_states": control(2, 15)}),
    "pixart": (pixart, pixart_inputs),
    "pixart, mask": (pixart, lambda: {**pixart_inputs(), "attention_mask": (torch.arange(15) != 4).repeat(2, 1)}),
    "cogvideox": (cogvideox, cogvideox_inputs),
    "cogvideox, rotary": (partial(cogvideox, use_rotary_positional_embeddings=True), partial(cogvideox_inputs, True)),
    "latte": (latte, latte_inputs),
    "wan": (wan, wan_inputs),
    "wan, image": (
        partial(wan, image_dim=20, added_kv_proj_dim=HEADS * DIM),
        lambda: wan_inputs(512, encoder_hidden_states_image=rand(2, 5, 20, seed=5)),
    ),
    "wan, time per token": (wan, lambda: wan_inputs(timestep=per_token(45))),
    "chronoedit": (chronoedit, wan_inputs),
    "ltx": (ltx, ltx_inputs),
    "ltx, time per token": (ltx, lambda: ltx_inputs(per_token(21))),
    "qwen": (qwen, partial(qwen_inputs, (1, 3, 5))),
    "qwen, control": (
        qwen,
        lambda: {**qwen_inputs((1, 3, 5)), "controlnet_block_samples": control(2, 15)},
    ),
    "qwen, mask": (qwen, partial(qwen_inputs, (1, 3, 5), mask=KEPT)),
    "qwen, edit": (partial(qwen, zero_cond_t=True), partial(qwen_inputs, (1, 3, 5), (1, 2, 3), mask=KEPT)),
}
FEW_TOKENS = {
    "flux, few tokens": (flux, lambda: few(partial(flux_inputs, 1, 2), txt_ids=torch.zeros(1, 3))),
    "sd3, few tokens": (sd3, lambda: few(sd3_inputs, hidden_states=rand(2, 4, 2, 4))),
    "latte, few tokens": (latte, lambda: few(latte_inputs, hidden_states=rand(2, 4, 3, 2, 4))),
}
"""Cases with fewer tokens than three ranks, in all segments."""
