"""The latest image families: {name of the case: (build, keyword arguments of one forward)}, 15 image tokens, two batch
entries."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn
from .image import TIMES, control, qwen_inputs
from .patched import behind, replaced

TEXT_MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])


def krea():
    """Two blocks, with fewer heads of keys, and a text of three layers."""
    return build(
        "comfy.ldm.krea2.model.SingleStreamDiT", features=16 * HEADS, tdim=32, txtdim=20, heads=HEADS, kvheads=3,
        multiplier=1, layers=2, channels=4, txtlayers=3, txtheads=2, txtkvheads=1,
    )  # fmt: skip


def krea_inputs(text=7):
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 1, 10, 6), "timesteps": TIMES, "context": randn(2, text, 60)}


def lens():
    """Two blocks and a text of two layers."""
    return build(
        "comfy.ldm.lens.model.LensTransformer2DModel", in_channels=16, out_channels=4, num_layers=2,
        attention_head_dim=12, num_attention_heads=HEADS, enc_hidden_dim=20, axes_dims_rope=(4, 4, 4),
        selected_layer_index=(1, 2),
    )  # fmt: skip


def lens_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 16, 5, 3), "timestep": TIMES, "context": randn(2, 7, 40)}


def joyimage():
    """Two blocks."""
    return build(
        "comfy.ldm.joyimage.model.JoyImageTransformer3DModel", in_channels=4, hidden_size=12 * HEADS,
        num_attention_heads=HEADS, text_dim=20, mlp_width_ratio=2.0, num_layers=2, rope_dim_list=[4, 4, 4],
    )  # fmt: skip


def joyimage_inputs():
    """A picture of 15 tokens and a text."""
    return {"hidden_states": randn(2, 4, 1, 10, 6), "timestep": TIMES * 1000, "context": randn(2, 7, 20)}


def ideogram():
    """Two layers."""
    return build(
        "comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel", in_channels=16, num_layers=2,
        num_attention_heads=HEADS, attention_head_dim=12, intermediate_size=96, adaln_dim=16, llm_features_dim=20,
        mrope_section=(2, 2, 2),
    )  # fmt: skip


def ideogram_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 16, 5, 3), "timesteps": TIMES, "context": randn(2, 7, 20)}


def mage_flow():
    """Two blocks."""
    return build(
        "comfy.ldm.mage_flow.model.MageFlowTransformer2DModel", in_channels=16, out_channels=16, num_layers=2,
        attention_head_dim=12, num_attention_heads=HEADS, joint_attention_dim=20, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip


def mage_flow_inputs():
    """A picture of 15 tokens and a text; ComfyUI rounds the time."""
    return qwen_inputs() | {"x": randn(2, 16, 5, 3), "timestep": TIMES.bfloat16()}


def pixeldit(kind="model.PixDiT_T2I", **changes):
    """Three patch blocks and a pixel block."""
    arguments = {
        "num_groups": HEADS, "hidden_size": 12 * HEADS, "pixel_hidden_size": 4, "pixel_attn_hidden_size": 12 * HEADS,
        "pixel_num_groups": HEADS, "patch_depth": 3, "pixel_depth": 1, "patch_size": 4, "txt_embed_dim": 20,
        "txt_max_length": 16,
    }  # fmt: skip
    return build(f"comfy.ldm.pixeldit.{kind}", **arguments | changes)


def pixeldit_inputs():
    """A picture of 15 patches and a text."""
    return {"x": randn(2, 3, 20, 12), "timesteps": TIMES * 1000, "context": randn(2, 7, 20)}


def pid():
    """As PixelDiT, with a small latent mixed in before the first and the third block and before the pixel block."""
    return pixeldit("pid.PidNet", lq_latent_channels=4, lq_hidden_dim=16, lq_num_res_blocks=1, pit_lq_inject=True)


def pid_inputs():
    """As for PixelDiT, with a latent."""
    return pixeldit_inputs() | {"lq_latent": randn(2, 4, 3, 2), "degrade_sigma": torch.tensor([0.2])}


class _Forgets(list):
    """Keeps nothing, as before the first step."""

    def __add__(self, other):
        return self

    def __getitem__(self, index):
        return self


def hidream_o1(first_step=False):
    """Two layers, with half as many heads of keys. Of its first forward it keeps the keys of the text."""
    text = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2 * HEADS,
        "num_key_value_heads": HEADS, "head_dim": 12, "rope_dims": [2, 2, 2],
    }  # fmt: skip
    sight = {"hidden_size": 24, "num_heads": 2, "intermediate_size": 32, "depth": 1, "num_position_embeddings": 16}
    module = build(
        "comfy.ldm.hidream_o1.model.HiDreamO1Transformer", text_config_overrides=text, vision_config_overrides=sight
    )
    if first_step:
        module._kv_cache_entries = _Forgets()
    return module


def _around_layer(args, extra):
    """Changes every token by its place, in front of the layer and behind it."""

    def changed(tokens):
        ramp = torch.linspace(0.5, 1.5, tokens.shape[1], device=tokens.device)[None, :, None]
        return tokens * ramp + tokens.roll(1, 1) / 4

    return {"x": changed(extra["original_block"](args | {"x": changed(args["x"])})["x"])}


def hidream_o1_inputs(reference=False):
    """A picture of 15 tokens, and a text that ends with the token of the time step; a reference is seen as 4 tokens of
    the text, and drawn with as 6 tokens."""
    seen, drawn = ([151655] * 4, 15 + 6) if reference else ([], 15)
    text = torch.tensor([[5, 6, 7, *seen, 8, 9, 151673]] * 2)
    length = text.shape[1] + drawn
    places = torch.stack([torch.arange(length) // step for step in (1, 2, 3)])
    given = {"x": randn(2, 3, 160, 96), "timesteps": TIMES * 1000, "input_ids": text, "position_ids": places[None]}
    given |= {"ar_len": text.shape[1] - 1, "vinput_mask": (torch.arange(length) >= text.shape[1]).repeat(2, 1)}
    if reference:
        given |= {"ref_pixel_values": randn(1, 16, 1536), "ref_image_grid_thw": torch.tensor([[[1, 4, 4]]])}
        given |= {"ref_patches": randn(2, 6, 3072)}
    return given


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    double, reference = ("double_block", 0), randn(2, 4, 1, 4, 6)
    at_zero = {"ref_latents": [reference], "ref_latents_method": "index_timestep_zero"}
    two = {"ref_latents": [reference, randn(2, 4, 1, 6, 6)]}
    return {
        "krea": (krea, krea_inputs()),
        "krea, reference latent": (krea, krea_inputs(5) | at_zero | {"ref_latents_method": "index"}),
        "krea, reference latent at time 0": (krea, krea_inputs() | at_zero),
        "lens": (lens, lens_inputs()),
        "lens, mask of the text, ControlNet": (lens, lens_inputs() | {"attention_mask": TEXT_MASK} | control(72)),
        "lens, blocks around, mask of the text, ControlNet": (
            lens,
            lens_inputs() | {"attention_mask": TEXT_MASK} | replaced(double) | control(72),
        ),
        "lens, patch behind every block": (lens, lens_inputs() | behind()),
        "joyimage": (joyimage, joyimage_inputs()),
        "joyimage, reference latents": (joyimage, joyimage_inputs() | two),
        "joyimage, blocks around, reference latents": (joyimage, joyimage_inputs() | two | replaced(double)),
        "ideogram": (ideogram, ideogram_inputs() | {"context": randn(2, 7, 20)}),
        "ideogram, padded text": (
            ideogram,
            ideogram_inputs() | {"context": randn(2, 7, 20), "attention_mask": TEXT_MASK},
        ),
        "ideogram, no text": (ideogram, ideogram_inputs() | {"context": None}),
        "mage flow": (mage_flow, mage_flow_inputs()),
        "mage flow, mask of the text, reference latent, ControlNet": (
            mage_flow,
            mage_flow_inputs() | {"attention_mask": TEXT_MASK, "ref_latents": [randn(2, 16, 2, 3)]} | control(72),
        ),
        "mage flow, blocks around": (mage_flow, mage_flow_inputs() | replaced(double)),
        "mage flow, patch behind every block": (mage_flow, mage_flow_inputs() | behind()),
        "pixeldit": (pixeldit, pixeldit_inputs()),
        "pid": (pid, pid_inputs()),
        "hidream o1, first step": (lambda: hidream_o1(first_step=True), hidream_o1_inputs()),
        "hidream o1, a later step": (hidream_o1, hidream_o1_inputs()),
        "hidream o1, layers around": (hidream_o1, hidream_o1_inputs() | replaced(double, by=_around_layer)),
        "hidream o1, layer skipped": (hidream_o1, hidream_o1_inputs() | replaced(double, by=lambda args, extra: args)),
        "hidream o1, reference image, first step": (
            lambda: hidream_o1(first_step=True),
            hidream_o1_inputs(reference=True),
        ),
    }
