"""The estimated bytes of keys and values are those of the real models, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.ldm.flux.model
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.ldm.wan.model
import comfy.ops
import pytest
import torch
from compact_parallel.runtime.comfy.describe.describe import model_facts

OPERATIONS = {"dtype": torch.bfloat16, "device": "meta", "operations": comfy.ops.disable_weight_init}


def flux():
    return comfy.ldm.flux.model.Flux(
        in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0,
        num_heads=24, depth=19, depth_single_blocks=38, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
        qkv_bias=True, guidance_embed=True, txt_ids_dims=[], **OPERATIONS,
    )  # fmt: skip


def wan():
    return comfy.ldm.wan.model.WanModel(
        model_type="t2v", patch_size=(1, 2, 2), in_dim=16, dim=5120, ffn_dim=13824, out_dim=16, num_heads=40,
        num_layers=40, **OPERATIONS,
    )  # fmt: skip


def sdxl():
    return openaimodel.UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2],
        channel_mult=[1, 2, 4], num_head_channels=64, use_spatial_transformer=True, context_dim=2048,
        transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10, num_classes="sequential",
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], adm_in_channels=2816, use_linear_in_transformer=True,
        **OPERATIONS,
    )  # fmt: skip


CASES = {
    "flux": (flux, (1, 16, 128, 128), 57 * 4608 * 3072),
    "wan": (wan, (1, 16, 21, 60, 104), 40 * (21 * 30 * 52 + 512) * 5120),
    "sdxl": (sdxl, (1, 4, 128, 128), 10 * 64 * 64 * 640 + 60 * 32 * 32 * 1280),
}


@pytest.mark.parametrize("family", CASES)
def test_keys_and_values_of_a_call(family):
    build, shape, values = CASES[family]
    model = SimpleNamespace(diffusion_model=build(), get_dtype_inference=lambda: torch.bfloat16)
    facts = model_facts(model, torch.empty(shape, device="meta"))
    assert facts.exchanged_bytes == 2 * 2 * values
