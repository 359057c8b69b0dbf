"""Tiny configurations of the diffusion models that templates ask for, by a part of the file's name.

The configurations are those that ComfyUI's detection would make: for families whose sizes it detects from the weights,
the weights alone are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WIDTH = 256
"""Channels of a token in most models: two heads of 128, the head dim of most families."""


@dataclass(frozen=True)
class Tiny:
    """One model.

    Attributes:
        family: the class of comfy.supported_models.
        config: its unet_config: the arguments of its module, and further entries that its class needs.
        text, vision: shapes of the outputs of its text encoder and CLIP vision (made by the pack tiny_weights).
        more: names and shapes of weights in addition to the module's.
    """

    family: str
    config: dict[str, Any]
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, int] = field(default_factory=dict)
    more: dict[str, tuple[int, ...]] = field(default_factory=dict)


_VISION_H = {"width": 1280, "tokens": 257, "embeds": 1024}
_UNET = {"use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False}
_STILL = {"use_temporal_resblock": False, "use_temporal_attention": False}
_SD15 = _UNET | _STILL | {
    "adm_in_channels": None, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1],
    "channel_mult": [1, 1], "transformer_depth": [1, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 0, 0], "use_linear_in_transformer": False, "context_dim": 768,
}  # fmt: skip
_SDXL = _UNET | _STILL | {
    "num_classes": "sequential", "adm_in_channels": 2816, "in_channels": 4, "out_channels": 4, "model_channels": 64,
    "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 4], "transformer_depth": [0, 1, 2],
    "transformer_depth_middle": 2, "transformer_depth_output": [0, 0, 1, 1, 2, 2], "use_linear_in_transformer": True,
    "context_dim": 2048,
}  # fmt: skip
_SVD = _UNET | {
    "num_classes": "sequential", "adm_in_channels": 768, "in_channels": 8, "out_channels": 4, "model_channels": 64,
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "use_linear_in_transformer": True, "context_dim": 1024,
    "use_temporal_attention": True, "use_temporal_resblock": True, "extra_ff_mix_layer": True,
    "use_spatial_context": True, "merge_strategy": "learned_with_images", "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
}  # fmt: skip
_FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768,
    "context_in_dim": 4096, "hidden_size": WIDTH, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True,
    "txt_ids_dims": [], "yak_mlp": False, "txt_norm": False,
}  # fmt: skip
_FLUX2 = _FLUX | {
    "image_model": "flux2", "axes_dim": [32, 32, 32, 32], "mlp_ratio": 3.0, "theta": 2000, "in_channels": 128,
    "out_channels": 128, "patch_size": 1, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False,
    "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3],
    "context_in_dim": 12288, "vec_in_dim": None, "guidance_embed": False,
}  # fmt: skip
_CHROMA = {key: value for key, value in _FLUX.items() if key not in ("yak_mlp", "txt_norm", "guidance_embed")} | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": WIDTH, "hidden_dim": 64,
    "n_layers": 2, "vec_in_dim": None,
}  # fmt: skip
_RADIANCE = _CHROMA | {
    "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4, "nerf_depth": 2, "nerf_max_freqs": 8, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": None, "use_x0": True, "use_sequential_txt_ids": False,
}  # fmt: skip
_SD3 = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
    "num_patches": 1024, "pos_embed_max_size": 32, "qk_norm": "rms", "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [],
}  # fmt: skip
_QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 128, "joint_attention_dim": 3584,
}  # fmt: skip
_WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "patch_size": (1, 2, 2), "in_dim": 16, "dim": WIDTH, "ffn_dim": 512,
    "freq_dim": 256, "out_dim": 16, "num_heads": 2, "num_layers": 2, "window_size": (-1, -1), "qk_norm": True,
    "cross_attn_norm": True, "eps": 1e-6,
}  # fmt: skip
_HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 768,
    "context_in_dim": 4096, "hidden_size": WIDTH, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True, "guidance_embed": True,
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
_HUNYUAN15 = _HUNYUAN | {
    "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None, "context_in_dim": 3584,
    "depth_single_blocks": 0, "guidance_embed": False, "byt5": True, "use_cond_type_embedding": True,
    "vision_in_dim": 1152, "meanflow_sum": True,
}  # fmt: skip
_LTX = {
    "image_model": "ltxv", "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 4,
    "cross_attention_dim": 128, "caption_channels": 4096, "in_channels": 128,
}  # fmt: skip
_LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 288, "cap_feat_dim": 2304, "n_layers": 2,
    "n_refiner_layers": 1, "qk_norm": True, "n_heads": 3, "n_kv_heads": 1, "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "ffn_dim_multiplier": 1.0,
}  # fmt: skip
_Z_IMAGE = _LUMINA | {
    "dim": WIDTH, "cap_feat_dim": 2560, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}  # fmt: skip
_HIDREAM = {
    "image_model": "hidream", "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32],
    "caption_channels": [4096, 4096], "max_resolution": [128, 128], "in_channels": 16, "out_channels": 16,
    "llama_layers": [0, 1], "num_attention_heads": 2, "num_routed_experts": 2, "num_activated_experts": 1,
    "num_layers": 1, "num_single_layers": 1, "patch_size": 2, "text_emb_dim": 2048,
}  # fmt: skip
_OMNIGEN = {
    "image_model": "omnigen2", "axes_dim_rope": [40, 40, 40], "axes_lens": [1024, 1664, 1664],
    "ffn_dim_multiplier": None, "hidden_size": 240, "in_channels": 16, "multiple_of": 32, "norm_eps": 1e-5,
    "num_attention_heads": 2, "num_kv_heads": 1, "num_layers": 2, "num_refiner_layers": 1, "out_channels": None,
    "patch_size": 2, "text_feat_dim": 2048, "timestep_scale": 1000.0,
}  # fmt: skip
_BOOGU = {
    "image_model": "boogu", "hidden_size": 240, "num_layers": 2, "num_double_stream_layers": 1,
    "num_refiner_layers": 1, "instruction_feat_dim": 4096, "num_attention_heads": 2, "num_kv_heads": 1,
    "multiple_of": 32, "axes_dim_rope": [40, 40, 40],
}  # fmt: skip
_ANIMA = {
    "image_model": "anima", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": WIDTH, "concat_padding_mask": True,
    "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 64,
    "num_blocks": 2, "num_heads": 2, "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
_KANDINSKY = {
    "image_model": "kandinsky5", "model_dim": WIDTH, "axes_dims": [32, 48, 48], "time_dim": 64, "ff_dim": 512,
    "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 2,
}  # fmt: skip
_KANDINSKY_IMAGE = _KANDINSKY | {"visual_embed_dim": 64}
_LENS = {
    "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2, "num_attention_heads": 4,
    "enc_hidden_dim": 2880, "multi_layer_encoder_feature": True, "selected_layer_index": (0, 1),
}  # fmt: skip
_KREA2 = {
    "image_model": "krea2", "features": WIDTH, "channels": 16, "patch": 2, "layers": 2, "heads": 2, "kvheads": 1,
    "txtlayers": 2, "txtdim": 640,
}  # fmt: skip
_ERNIE = {
    "image_model": "ernie", "hidden_size": WIDTH, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 512,
}  # fmt: skip
_JOY = {
    "image_model": "joyimage", "in_channels": 16, "hidden_size": WIDTH, "patch_size": [1, 2, 2], "num_layers": 2,
    "num_attention_heads": 2, "text_dim": 4096,
}  # fmt: skip
_PIXELDIT = {
    "image_model": "pixeldit_t2i", "num_groups": 4, "hidden_size": WIDTH, "pixel_hidden_size": 16,
    "pixel_attn_hidden_size": WIDTH, "pixel_num_groups": 4, "patch_depth": 2, "pixel_depth": 1, "patch_size": 16,
    "txt_embed_dim": 2304, "txt_max_length": 300,
}  # fmt: skip
_MAGE = {
    "image_model": "mage_flow", "in_channels": 128, "out_channels": 128, "num_layers": 2, "num_attention_heads": 2,
    "joint_attention_dim": 2560,
}  # fmt: skip
_ACE = {
    "audio_model": "ace", "attention_head_dim": 64, "in_channels": 8, "inner_dim": 128, "max_height": 16,
    "max_position": 32768, "max_width": 32768, "mlp_ratio": 2.0, "num_attention_heads": 2, "num_layers": 2,
    "out_channels": 8, "patch_size": [16, 1], "rope_theta": 1000000.0, "speaker_embedding_dim": 512,
    "text_embedding_dim": 768, "ssl_encoder_depths": [8, 8], "ssl_latent_dims": [1024, 768],
    "ssl_names": ["mert", "m-hubert"], "lyric_encoder_vocab_size": 6693, "lyric_hidden_size": 1024,
}  # fmt: skip
_ACE15 = {
    "audio_model": "ace1.5", "hidden_size": WIDTH, "intermediate_size": 512, "num_heads": 2, "num_kv_heads": 1,
    "encoder_hidden_size": WIDTH, "encoder_num_heads": 2, "encoder_intermediate_size": 512, "num_dit_layers": 2,
    "fsq_dim": WIDTH,
}  # fmt: skip
_STABLE_AUDIO = {
    "audio_model": "dit1.0", "io_channels": 64, "embed_dim": 768, "cond_token_dim": 768, "global_cond_dim": 1536,
    "project_cond_tokens": False, "depth": 2, "num_heads": 12, "input_concat_dim": 0,
    "timestep_features_type": "learned",
}  # fmt: skip
_NUMBERS = {
    f"conditioner.conditioners.{name}.embedder.embedding.{part}": shape
    for name in ("seconds_start", "seconds_total")
    for part, shape in {"0.weights": (128,), "1.weight": (768, 257), "1.bias": (768,)}.items()
}
_HUNYUAN3D = {
    "image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 1536, "hidden_size": 128, "mlp_ratio": 4.0,
    "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "qkv_bias": True, "guidance_embed": False,
}  # fmt: skip
_HUNYUAN3D_21 = {
    "image_model": "hunyuan3d2_1", "in_channels": 64, "context_dim": 1024, "hidden_size": 128, "mlp_ratio": 4.0,
    "num_heads": 2, "depth": 4, "qkv_bias": False, "guidance_cond_proj_dim": None, "num_moe_layers": 2,
    "num_experts": 2,
}  # fmt: skip

_T5 = {"width": 4096}
_QWEN_TEXT = {"width": 3584}
_LLAMA = {"width": 4096, "pooled": 2048, "numbers": {"conditioning_llama3": [1, 2, 0, 4096]}}
_SONG = {"width": 768, "ids": {"conditioning_lyrics": [1, 0]}}
_IDS = {"width": 1024, "ids": {"t5xxl_ids": [0]}, "ones": {"t5xxl_weights": [0]}}
_MASKED = {"ones": {"attention_mask": [1, 0]}}
BY_FILE: tuple[tuple[str, Tiny], ...] = (
    ("v1-5-pruned", Tiny("SD15", _SD15, {"width": 768, "pooled": 768})),
    ("dreamshaper_8", Tiny("SD15", _SD15, {"width": 768, "pooled": 768})),
    ("sd_xl", Tiny("SDXL", _SDXL, {"width": 2048, "pooled": 1280})),
    ("svd", Tiny("SVD_img2vid", _SVD, vision=_VISION_H)),
    ("flux1-schnell", Tiny("FluxSchnell", _FLUX | {"guidance_embed": False}, _T5 | {"pooled": 768})),
    ("flux1-fill", Tiny("FluxInpaint", _FLUX | {"in_channels": 96}, _T5 | {"pooled": 768})),
    ("flux1-canny", Tiny("Flux", _FLUX | {"in_channels": 32}, _T5 | {"pooled": 768})),
    ("flux1", Tiny("Flux", _FLUX, _T5 | {"pooled": 768})),
    ("flux-2-klein", Tiny("Flux2", _FLUX2, {"width": 12288})),
    ("chroma-radiance", Tiny("ChromaRadiance", _RADIANCE, _T5)),
    ("chroma", Tiny("Chroma", _CHROMA, _T5)),
    ("sd3", Tiny("SD3", _SD3, _T5 | {"pooled": 2048})),
    ("qwen_image", Tiny("QwenImage", _QWEN, _QWEN_TEXT)),
    ("causal_forcing", Tiny("WAN21_CausalAR_T2V", _WAN | {"causal_ar": True}, _T5)),
    ("vace", Tiny("WAN21_Vace", _WAN | {"model_type": "vace", "vace_in_dim": 96, "vace_layers": 2}, _T5)),
    ("wan2.1_i2v", Tiny("WAN21_I2V", _WAN | {"model_type": "i2v", "in_dim": 36}, _T5)),
    ("wan2.2_i2v", Tiny("WAN21_T2V", _WAN | {"in_dim": 36}, _T5)),
    ("wan2.2_ti2v", Tiny("WAN22_T2V", _WAN | {"in_dim": 48, "out_dim": 48}, _T5)),
    ("wan2", Tiny("WAN21_T2V", _WAN, _T5)),
    ("hunyuanvideo1.5", Tiny("HunyuanVideo15", _HUNYUAN15, _QWEN_TEXT)),
    ("hunyuan_video", Tiny("HunyuanVideo", _HUNYUAN, _T5 | {"pooled": 768})),
    ("ltx-video", Tiny("LTXV", _LTX, _T5 | _MASKED)),
    ("z_image", Tiny("ZImage", _Z_IMAGE, {"width": 2560})),
    ("netayume", Tiny("Lumina2", _LUMINA, {"width": 2304})),
    ("hidream_e1", Tiny("HiDream", _HIDREAM, _LLAMA)),
    ("hidream_i1", Tiny("HiDream", _HIDREAM, _LLAMA)),
    ("omnigen2", Tiny("Omnigen2", _OMNIGEN, {"width": 2048} | _MASKED)),
    ("boogu", Tiny("Boogu", _BOOGU, {"width": 4096} | _MASKED)),
    ("anima", Tiny("Anima", _ANIMA, _IDS)),
    ("kandinsky5lite_t2i", Tiny("Kandinsky5Image", _KANDINSKY_IMAGE, _QWEN_TEXT | {"pooled": 768})),
    ("kandinsky5", Tiny("Kandinsky5", _KANDINSKY, _QWEN_TEXT | {"pooled": 768})),
    ("lens", Tiny("Lens", _LENS, {"width": 2 * 2880})),
    ("krea2", Tiny("Krea2", _KREA2, {"width": 2 * 640})),
    ("ernie", Tiny("ErnieImage", _ERNIE, {"width": 3072})),
    ("joyai", Tiny("JoyImage", _JOY, {"width": 4096})),
    ("pixeldit", Tiny("PixelDiTT2I", _PIXELDIT, {"width": 2304})),
    ("mage_flow", Tiny("MageFlow", _MAGE, {"width": 2560})),
    ("ace_step_v1", Tiny("ACEStep", _ACE, _SONG)),
    ("ace_step_1.5", Tiny("ACEStep15", _ACE15, {"width": 1024, "numbers": {"conditioning_lyrics": [1, 0, 1024]}})),
    ("stable-audio-open", Tiny("StableAudio", _STABLE_AUDIO, {"width": 768}, more=_NUMBERS)),
    (
        "hunyuan_3d_v2.1",
        Tiny("Hunyuan3Dv2_1", _HUNYUAN3D_21, vision={"width": 1024, "tokens": 1370, "embeds": 1024}),
    ),
    ("hunyuan3d-dit-v2", Tiny("Hunyuan3Dv2", _HUNYUAN3D, vision={"width": 1536, "tokens": 257, "embeds": 1024})),
)
"""(part of the file's name in lower case, the model to write). Models that derive from another one come before it."""


def tiny(file: str) -> Tiny:
    """The model to write for a file. Raises KeyError if the table does not have it."""
    for part, model in BY_FILE:
        if part in file.lower():
            return model
    raise KeyError(f"no tiny sizes for {file}")
