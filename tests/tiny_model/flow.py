"""The tiny transformer: ComfyUI's own Flux module, trained by flow matching in the space ComfyUI samples in.

x_sigma = (1 - sigma) * x0 + sigma * noise, the network predicts noise - x0 from (x_sigma, sigma): ComfyUI's FLOW model
type with multiplier 1, which is what it detects for a Flux file without guidance weights.
"""

from pathlib import Path

import torch
from autoencoder import CHANNELS, LinearEncoder
from environment import encoding
from pictures import draw, random_attributes, random_scenes
from safetensors.torch import save_file
from torch import Tensor, nn

HIDDEN, DOUBLE_BLOCKS, SINGLE_BLOCKS = 256, 2, 4
DROP_ALL, DROP_ONE = 0.12, 0.06
"""Shares of prompts dropped whole, and of single attributes dropped to "any"."""

Kind = tuple[int, int, float, bool]
SIZES: dict[str, tuple[Kind, ...]] = {
    "small": ((128, 16, 0.0, True),),
    "model": ((256, 8, 0.3, True),),
    "finetune": ((256, 8, 0.6, True), (512, 2, 0.9, False)),
}
"""Per stage a cycle of (pixels, share of a batch, centre of log-odds of sigma, stretched).

Bigger pictures need higher noise levels. Stretched pictures get the positions that the demo's 32x32 tokens have, in
wider steps: what a small picture teaches about places then holds at the demo's size.
"""
DEMO_SIDE = 32


class _LayerNorm(nn.LayerNorm):
    """Normalises a float32 copy: the blocks add to the input in place, which autograd cannot undo."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float().clone())


class _RMSNorm(nn.RMSNorm):
    """Normalises in the input's precision, for which torch has a fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class _Operations:
    """The layers Flux is built from; ComfyUI's own would neither initialise nor train."""

    Linear = nn.Linear
    RMSNorm = _RMSNorm
    LayerNorm = _LayerNorm


def build_model() -> nn.Module:
    """A freshly initialised Flux of 8.6 M parameters with plain torch layers.

    The modulations start as constants (no shift, no scale, gate 1), the last layer at zero.
    """
    from comfy.ldm.flux.model import Flux

    model = Flux(
        in_channels=CHANNELS, out_channels=CHANNELS, patch_size=2, vec_in_dim=encoding.POOLED_DIM,
        context_in_dim=encoding.CONTEXT_DIM, hidden_size=HIDDEN, mlp_ratio=4.0, num_heads=HIDDEN // 128,
        depth=DOUBLE_BLOCKS, depth_single_blocks=SINGLE_BLOCKS, axes_dim=[16, 56, 56], theta=10000, qkv_bias=True,
        guidance_embed=False, txt_ids_dims=[], dtype=torch.float32, operations=_Operations,
    )  # fmt: skip
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            is_output = name.endswith((".proj", "_mlp.2", ".linear2"))
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5 * (0.3 if is_output else 1.0))
            nn.init.zeros_(module.bias)
            if name.endswith(".lin") or "adaLN" in name:
                nn.init.zeros_(module.weight)
            if name.endswith(".lin"):
                module.bias.data.view(-1, 3, HIDDEN)[:, 2] = 1.0
    for embedding in (model.txt_in, model.vector_in.in_layer):
        nn.init.normal_(embedding.weight, std=1.0)
    nn.init.zeros_(model.final_layer.linear.weight)
    for stream in (model.img_in, model.txt_in):
        stream.register_forward_hook(lambda module, inputs, output: output.float())
    return model


def build_optimizers(model: nn.Module, scale: float) -> list[torch.optim.Optimizer]:
    """Muon (in two halves, one per core) for the blocks' big matrices, AdamW for the rest.

    Args:
        scale: multiplies all learning rates.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and "blocks" in name and "mod" not in name
        (matrices if hidden else others).append(parameter)
    muon = {"lr": 2e-3 * scale, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    return [
        torch.optim.Muon(matrices[::2], **muon),
        torch.optim.Muon(matrices[1::2], **muon),
        torch.optim.AdamW(others, lr=1.5e-3 * scale, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def drop_conditions(indices: Tensor, generator: torch.Generator) -> Tensor:
    """Sets some attributes [B, 5] to 0 ("any"): whole prompts with DROP_ALL, single ones with DROP_ONE."""
    whole = torch.rand(len(indices), 1, generator=generator) < DROP_ALL
    single = torch.rand(indices.shape, generator=generator) < DROP_ONE
    return indices.masked_fill(whole | single, 0)


def random_sigmas(count: int, centre: float, generator: torch.Generator) -> Tensor:
    """Noise levels [count]: log-odds spread evenly over the quantiles of a normal distribution around `centre`."""
    quantiles = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return torch.sigmoid(centre + 1.2 * torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)))


def flow_loss(model: nn.Module, linear: LinearEncoder, kind: Kind, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted velocity on one batch of fresh pictures.

    Args:
        kind: one entry of SIZES.
    """
    size, count, centre, stretched = kind
    scale = (DEMO_SIDE - 1) / (size // 16 - 1) if stretched else 1.0
    options = {"rope_options": {"scale_x": scale, "scale_y": scale}}
    attributes = random_attributes(count, generator)
    latents = linear(draw(random_scenes(attributes, generator), size))
    tokens, pooled = encoding.encode(drop_conditions(attributes + 1, generator))
    sigmas = random_sigmas(count, centre, generator)
    noise = torch.randn(latents.shape, generator=generator)
    noisy = torch.lerp(latents, noise, sigmas[:, None, None, None])
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(noisy, sigmas, tokens, pooled, transformer_options=options)
    return nn.functional.mse_loss(velocity.float(), noise - latents)


def save_model(path: Path, model: nn.Module) -> None:
    """Writes the float32 file that the stock UNETLoader takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.float().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt", "license": "GPL-3.0-or-later"})
