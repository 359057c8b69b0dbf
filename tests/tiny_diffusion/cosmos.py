"""Cosmos 1, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, build
from .changes import after, changed
from .predict2 import predict2_inputs


def cosmos():
    """Two blocks of Cosmos 1."""
    return build(
        "comfy.ldm.cosmos.model.GeneralDIT", max_img_h=16, max_img_w=16, max_frames=8, in_channels=4, out_channels=4,
        patch_spatial=2, patch_temporal=1, block_config="FA-CA-MLP", model_channels=12 * HEADS, num_blocks=2,
        num_heads=HEADS, mlp_ratio=2.0, block_x_format="THWBD", crossattn_emb_channels=20, pos_emb_cls="rope3d",
        affline_emb_norm=True, use_adaln_lora=True, adaln_lora_dim=16, extra_per_block_abs_pos_emb=True,
        extra_per_block_abs_pos_emb_type="learnable",
    )  # fmt: skip


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "cosmos": (cosmos, predict2_inputs()),
        "cosmos, a block changed": (changed(cosmos, after("blocks.block1", 0)), predict2_inputs()),
    }
