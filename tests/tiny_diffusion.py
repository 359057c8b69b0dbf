"""ComfyUI's own diffusion modules, tiny and with random weights, and inputs for them. Needs COMFYUI_PATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

HEADS = 6
needs_comfyui = pytest.mark.skipif(
    not (Path(os.environ.get("COMFYUI_PATH", "")) / "comfy").is_dir(), reason="COMFYUI_PATH does not name a ComfyUI"
)


def use_comfyui():
    """Puts ComfyUI on the path, on the CPU."""
    folder = os.environ["COMFYUI_PATH"]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from comfy.cli_args import args

    args.cpu = True


def _with_weights(module):
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        scale = 1.5 * parameter.shape[1] ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale + (parameter.ndim == 1)
    return module.eval().requires_grad_(False)


def flux(**changes):
    """Two double and two single blocks."""
    use_comfyui()
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    arguments = {
        "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 20, "hidden_size": 12 * HEADS,
        "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    }  # fmt: skip
    return _with_weights(Flux(dtype=torch.float32, operations=comfy.ops.disable_weight_init, **arguments | changes))


def sd3(**changes):
    """Two joint blocks, the first of which attends twice (as 3.5 medium's do)."""
    use_comfyui()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 20, "out_features": 64 * HEADS}}
    arguments = {
        "input_size": None, "patch_size": 2, "in_channels": 4, "depth": HEADS, "num_blocks": 2, "mlp_ratio": 1.0,
        "adm_in_channels": 16, "context_embedder_config": embedder, "qk_norm": "rms", "x_block_self_attn_layers": [0],
        "pos_embed_max_size": None, "num_patches": None,
    }  # fmt: skip
    operations = comfy.ops.disable_weight_init
    return _with_weights(OpenAISignatureMMDITWrapper(dtype=torch.float32, operations=operations, **arguments | changes))


def wan(**changes):
    """Two blocks of Wan 2.1, text to video."""
    use_comfyui()
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    arguments = {
        "model_type": "t2v", "in_dim": 4, "dim": 12 * HEADS, "ffn_dim": 96, "freq_dim": 32, "text_dim": 20,
        "out_dim": 4, "num_heads": HEADS, "num_layers": 2,
    }  # fmt: skip
    return _with_weights(WanModel(dtype=torch.float32, operations=comfy.ops.disable_weight_init, **arguments | changes))


def inputs(family, text=7, height=10, width=6, batch=2):
    """Keyword arguments of one forward. Flux and SD3: (height / 2) (width / 2) tokens; Wan: three frames of them."""
    generator = torch.Generator().manual_seed(text)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    given = {"timestep": torch.rand(batch, generator=generator), "context": randn(batch, text, 20)}
    if family == "wan":
        return {"x": randn(batch, 4, 3, height, width), **given}
    given |= {"x": randn(batch, 4, height, width), "y": randn(batch, 16)}
    if family == "sd3":
        given["timesteps"] = given.pop("timestep")
    return given | ({"guidance": torch.full((batch,), 3.5)} if family == "flux" else {})
