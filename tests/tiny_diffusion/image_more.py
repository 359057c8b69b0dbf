"""More families, of pictures, shapes and sound: {name of the case: (build, keyword arguments of one forward)}."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import torch

from .base import HEADS, Afresh, build, randn, use_comfyui
from .image import TIMES
from .patched import by_position, replaced


def omnigen(kind="omnigen.omnigen2.OmniGen2Transformer2DModel", text_name="text_feat_dim", **changes):
    """Two layers of OmniGen2, and one of each refiner."""
    arguments = {
        "in_channels": 4, "hidden_size": 12 * HEADS, "num_layers": 2, "num_refiner_layers": 1,
        "num_attention_heads": 2 * HEADS, "num_kv_heads": HEADS, "multiple_of": 8, "axes_dim_rope": (2, 2, 2),
        text_name: 20,
    }  # fmt: skip
    return build(f"comfy.ldm.{kind}", **arguments | changes)


def boogu():
    """As OmniGen2, with a double block in front."""
    return omnigen("boogu.model.BooguTransformer2DModel", "instruction_feat_dim", num_double_stream_layers=1)


def omnigen_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 10, 6), "timesteps": TIMES, "context": randn(2, 7, 20), "num_tokens": 7}


def hydit():
    """Four blocks, the first of which hands its tokens to the last."""
    return build(
        "comfy.ldm.hydit.models.HunYuanDiT", input_size=None, hidden_size=8 * HEADS, depth=4, num_heads=HEADS,
        mlp_ratio=2.0, text_states_dim=20, text_states_dim_t5=16, text_len=7, text_len_t5=5, size_cond=True,
    )  # fmt: skip


def hydit_inputs():
    """A picture of 15 tokens, texts of CLIP and T5 with their masks, and sizes."""
    masks = {
        "text_embedding_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3]),
        "text_embedding_mask_t5": torch.tensor([[1] * 5, [1] * 2 + [0] * 3]),
    }
    size = torch.tensor([[80.0, 48, 80, 48, 0, 0]] * 2)
    given = {"x": randn(2, 4, 10, 6), "t": TIMES * 1000, "context": randn(2, 7, 20)}
    return given | {"encoder_hidden_states_t5": randn(2, 5, 16), "image_meta_size": size} | masks


def ernie():
    """Two layers."""
    return build(
        "comfy.ldm.ernie.model.ErnieImageModel", hidden_size=12 * HEADS, num_attention_heads=HEADS, num_layers=2,
        ffn_hidden_size=96, in_channels=4, out_channels=4, text_in_dim=20, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip


def ernie_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 5, 3), "timesteps": TIMES, "context": randn(2, 7, 20)}


def hunyuan3d():
    """Two double and two single blocks."""
    return build(
        "comfy.ldm.hunyuan3d.model.Hunyuan3Dv2", in_channels=4, context_in_dim=20, hidden_size=12 * HEADS,
        mlp_ratio=2.0, num_heads=HEADS, depth=2, depth_single_blocks=2, guidance_embed=True,
    )  # fmt: skip


def hunyuan3d_moe():
    """Four blocks, the first of which hands its tokens to the last, and the last two of which have experts."""
    return build(
        "comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain", in_channels=4, hidden_size=12 * HEADS, context_dim=20,
        depth=4, num_heads=HEADS, num_moe_layers=2, num_experts=3, guidance_cond_proj_dim=None,
    )  # fmt: skip


def hunyuan3d_inputs():
    """A shape of 17 tokens, and 7 of the picture it is to be like."""
    return {"x": randn(2, 4, 17), "context": randn(2, 7, 20)}


def triposplat():
    """Two blocks, and one of each refiner."""
    return build(
        "comfy.ldm.triposplat.model.LatentSeqMMFlowModel", q_token_length=15, in_channels=4, model_channels=12 * HEADS,
        cond_channels=20, out_channels=4, num_blocks=2, num_refiner_blocks=1, num_heads=HEADS, num_head_channels=12,
        cond2_channels=8,
    )  # fmt: skip


def triposplat_inputs():
    """15 splats, a camera, and a picture of 10 tokens, seen by two models."""
    given = {"x": [randn(2, 15, 4), randn(2, 1, 5)], "t": TIMES, "context": randn(2, 10, 20)}
    return given | {"ref_latents": [randn(2, 8, 2, 3)]}


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


def _around_all(args, extra):
    """As the patches of other families, of a model that calls its tokens "x"."""
    return by_position(extra["original_block"](args | {"x": by_position(args["x"])}))


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    control = {"control": Afresh(output=[randn(2, 15, 8 * HEADS)])}
    double, last = ("double_block", 0), ("double_block", 3)
    references = {"ref_latents": [randn(2, 4, 4, 6, seed=i) for i in (5, 6)]}
    return {
        "omnigen2": (omnigen, omnigen_inputs()),
        "omnigen2, reference images": (omnigen, omnigen_inputs() | references),
        "boogu": (boogu, omnigen_inputs()),
        "boogu, reference images": (boogu, omnigen_inputs() | references),
        "hunyuandit": (hydit, hydit_inputs()),
        "hunyuandit, ControlNet": (hydit, hydit_inputs() | control),
        "hunyuandit, blocks around, ControlNet": (hydit, hydit_inputs() | control | replaced(double, last)),
        "ernie": (ernie, ernie_inputs()),
        "hunyuan3d": (hunyuan3d, hunyuan3d_inputs() | {"timestep": TIMES, "guidance": torch.full((2,), 5.0)}),
        "hunyuan3d, blocks around": (
            hunyuan3d,
            hunyuan3d_inputs() | {"timestep": TIMES} | replaced(double, ("single_block", 0)),
        ),
        "hunyuan3d 2.1": (hunyuan3d_moe, hunyuan3d_inputs() | {"t": TIMES}),
        "hunyuan3d 2.1, blocks around": (
            hunyuan3d_moe,
            hunyuan3d_inputs() | {"t": TIMES} | replaced(("block", 0), ("block", 3), by=_around_all),
        ),
        "ace step 1": (ace_step, ace_step_inputs()),
        "triposplat": (triposplat, triposplat_inputs()),
    }
