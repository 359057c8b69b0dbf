"""Video families: {name of the case: (build, keyword arguments of one forward)}, two batch entries."""

from __future__ import annotations

import torch

from .base import HEADS, build, randn
from .first import inputs, wan
from .image import TIMES, control


def hunyuan(**changes):
    """Two double and two single blocks of Hunyuan Video."""
    arguments = {
        "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS,
        "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4],
        "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": False, "byt5": False,
        "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
    }  # fmt: skip
    return build("comfy.ldm.hunyuan_video.model.HunyuanVideo", **arguments | changes)


def hunyuan15():
    """Hunyuan Video 1.5: no single blocks, more kinds of text, no pooled text."""
    return hunyuan(
        depth_single_blocks=0,
        byt5=True,
        use_cond_type_embedding=True,
        vision_in_dim=8,
        vec_in_dim=None,
        patch_size=[1, 1, 1],
    )


def hunyuan_inputs(height=10):
    """Three frames of (height / 2) 3 tokens and a text."""
    return {"x": randn(2, 4, 3, height, 6), "timestep": TIMES * 1000, "context": randn(2, 7, 20), "y": randn(2, 16)}


def ltx():
    """Two blocks of LTX-Video."""
    return build(
        "comfy.ldm.lightricks.model.LTXVModel", in_channels=8, cross_attention_dim=12 * HEADS, attention_head_dim=12,
        num_attention_heads=HEADS, caption_channels=20, num_layers=2,
    )  # fmt: skip


def ltx_inputs():
    """Three frames of 5 tokens and a text."""
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return {"x": randn(2, 8, 3, 5, 1), "timestep": TIMES[:, None], "context": randn(2, 7, 20), "attention_mask": mask}


def ltx_keyframes():
    """As `ltx_inputs`, with the last frame a keyframe that has a place and a time of its own."""
    per_token = torch.rand(2, 15, 1, generator=torch.Generator().manual_seed(1))
    coordinates = torch.arange(15.0).reshape(1, 3, 5, 1).repeat(2, 1, 1, 1)
    mask = torch.ones(2, 1, 3, 5, 1)
    return ltx_inputs() | {"timestep": per_token, "keyframe_idxs": coordinates, "denoise_mask": mask}


def predict2(kind="cosmos.predict2.MiniTrainDIT", **changes):
    """Two blocks of Cosmos Predict2, with everything its configurations may ask for."""
    arguments = {
        "max_img_h": 16, "max_img_w": 16, "max_frames": 8, "in_channels": 4, "out_channels": 4, "patch_spatial": 2,
        "patch_temporal": 1, "model_channels": 12 * HEADS, "num_blocks": 2, "num_heads": HEADS, "mlp_ratio": 2.0,
        "crossattn_emb_channels": 20, "pos_emb_cls": "rope3d", "pos_emb_interpolation": "crop",
        "use_adaln_lora": True, "adaln_lora_dim": 16,
    }  # fmt: skip
    return build(f"comfy.ldm.{kind}", **arguments | changes)


def predict2_inputs():
    """Three frames of 15 tokens and a text."""
    return {"x": randn(2, 4, 3, 10, 6), "timesteps": TIMES, "context": randn(2, 7, 20)}


def cosmos():
    """Two blocks of Cosmos 1."""
    return build(
        "comfy.ldm.cosmos.model.GeneralDIT", max_img_h=16, max_img_w=16, max_frames=8, in_channels=4, out_channels=4,
        patch_spatial=2, patch_temporal=1, block_config="FA-CA-MLP", model_channels=12 * HEADS, num_blocks=2,
        num_heads=HEADS, mlp_ratio=2.0, block_x_format="THWBD", crossattn_emb_channels=20, pos_emb_cls="rope3d",
        affline_emb_norm=True, use_adaln_lora=True, adaln_lora_dim=16, extra_per_block_abs_pos_emb=True,
        extra_per_block_abs_pos_emb_type="learnable",
    )  # fmt: skip


def cogvideo(**changes):
    """Two blocks of CogVideoX with rotary positions."""
    arguments = {
        "num_attention_heads": HEADS, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
        "time_embed_dim": 32, "text_embed_dim": 20, "num_layers": 2, "sample_width": 8, "sample_height": 8,
        "sample_frames": 9, "max_text_seq_length": 7, "use_rotary_positional_embeddings": True,
    }  # fmt: skip
    return build("comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel", **arguments | changes)


def cogvideo_inputs():
    """Three frames of 15 tokens and a text."""
    return {"x": randn(2, 4, 3, 10, 6), "timestep": TIMES * 1000, "context": randn(2, 7, 20)}


def mochi():
    """Two blocks; the model insists on the width of its first perceptron."""
    return build(
        "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint", in_channels=4, hidden_size_x=96,
        hidden_size_y=48, depth=2, num_heads=HEADS, mlp_ratio_x=128.0, mlp_ratio_y=2.0, t5_feat_dim=24,
        t5_token_length=9, qk_norm=True, qkv_bias=False, out_bias=True, patch_embed_bias=True, use_t5=True,
        use_extended_posenc=False,
    )  # fmt: skip


def mochi_inputs(counted):
    """Three frames of 15 tokens and a text of 9 tokens, of which so many count."""
    mask = (torch.arange(9) < counted).repeat(2, 1)
    given = {"x": randn(2, 4, 3, 10, 6), "timestep": TIMES, "context": randn(2, 9, 24), "attention_mask": mask}
    return given | {"num_tokens": counted}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    text_mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    first_frame = {"guiding_frame_index": torch.zeros(2)}
    more_text = {"txt_byt5": randn(2, 3, 1472), "clip_fea": randn(2, 2, 8)}
    per_frame = {"timestep": torch.rand(2, 3, generator=torch.Generator().manual_seed(1))}
    times = torch.rand(2, 3, generator=torch.Generator().manual_seed(1))
    return {
        "wan, time step per frame": (wan, inputs("wan") | per_frame),
        "wan, time step per frame, reference latent": (
            lambda: wan(in_dim_ref_conv=4),
            inputs("wan", height=6) | per_frame | {"reference_latent": randn(2, 4, 6, 6)},
        ),
        "hunyuan": (hunyuan, hunyuan_inputs()),
        "hunyuan, mask of the text": (hunyuan, hunyuan_inputs(6) | {"attention_mask": text_mask}),
        "hunyuan, first frame given": (lambda: hunyuan(guidance_embed=False), hunyuan_inputs() | first_frame),
        "hunyuan, ControlNet": (hunyuan, hunyuan_inputs() | control(72, tokens=45)),
        "hunyuan 1.5": (hunyuan15, hunyuan_inputs() | more_text),
        "ltx": (ltx, ltx_inputs()),
        "ltx, time step per token and keyframe": (ltx, ltx_keyframes()),
        "predict2": (predict2, predict2_inputs()),
        "predict2, time step per frame": (predict2, predict2_inputs() | {"timesteps": times}),
        "predict2, positions added in every block": (
            lambda: predict2(extra_per_block_abs_pos_emb=True),
            predict2_inputs(),
        ),
        "predict2, Anima": (lambda: predict2("anima.model.Anima"), predict2_inputs()),
        "cosmos": (cosmos, predict2_inputs()),
        "cogvideo": (cogvideo, cogvideo_inputs()),
        "cogvideo, two frames per token (1.5)": (
            lambda: cogvideo(patch_size_t=2, ofs_embed_dim=32, time_embed_dim=32),
            cogvideo_inputs() | {"ofs": torch.tensor([2.0])},
        ),
        "mochi": (mochi, mochi_inputs(9)),
        "mochi, padded text": (mochi, mochi_inputs(5)),
    }
