"""The tiny autoencoder: a linear encoder written into TAESD's weights by hand, and TAESD's decoder, trained.

The encoder is a PCA of 8x8x3 patches to 16 numbers. TAESD can hold it exactly: its three stride-2 convolutions become
space-to-depth (the last one also applies the projection, once with each sign), its residual blocks are zero, so each is
relu(x), and the last convolution joins the two signs. Latents z live in the space ComfyUI's Flux samples in; the file's
vae_scale and vae_shift are Flux's own, so that stock latents are z / 0.3611 + 0.1159.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from pictures import draw_crops
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 16
PATCH = 8
FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159
NOISE = 0.04
"""Standard deviation of the noise on latents in training, so that the decoder forgives the diffusion model."""


@dataclass
class LinearEncoder:
    """z = (patch - mean) @ basis, with patches flattened as (channel, row, column)."""

    basis: Tensor
    """[192, 16]."""
    mean: Tensor
    """[192]."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1 to latents [B, 16, H/8, W/8] of variance below one."""
        weight = self.basis.T.reshape(CHANNELS, 3, PATCH, PATCH)
        return functional.conv2d(pictures, weight, bias=-self.mean @ self.basis, stride=PATCH)


def fit_encoder(generator: torch.Generator, count: int = 2048) -> LinearEncoder:
    """Fits the PCA on crops of pictures at 256 and 512 pixels.

    Components are scaled by variance ** -0.3, about half way between plain PCA and whitening: the fine ones stay
    weaker than the coarse ones, as in pictures, and none is lost in the diffusion model's error.
    """
    crops = torch.cat([draw_crops(count, size, 64, generator) for size in (256, 512)])
    patches = functional.unfold(crops, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH * PATCH)
    mean = patches.mean(dim=0)
    covariance = (patches - mean).T @ (patches - mean) / len(patches)
    values, vectors = torch.linalg.eigh(covariance.double())
    values, vectors = values.flip(0)[:CHANNELS].float(), vectors.flip(1)[:, :CHANNELS].float()
    scale = values.pow(-0.3)
    return LinearEncoder(vectors * (scale * (values * scale.square()).mean().rsqrt() * 0.85), mean)


def encoder_weights(linear: LinearEncoder, template: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of TAESD's encoder that computes `linear` exactly.

    Args:
        template: a state dict of that module, for its names and shapes.
    """
    weights = {name: torch.zeros_like(value) for name, value in template.items()}
    first, halves, last = weights["0.weight"], [weights[f"{i}.weight"] for i in (2, 6, 10)], weights["14.weight"]
    for c in range(3):
        first[c, c, 1, 1] = 1
    for level, conv in enumerate(halves[:2]):
        inputs = 3 * 4**level
        for row in range(2):
            for column in range(2):
                for c in range(inputs):
                    conv[(row * 2 + column) * inputs + c, c, row + 1, column + 1] = 1
    # Both reorderings name the axes by the halving they belong to: y1 and x1 select within the first 2x2.
    patch = linear.basis.T.reshape(CHANNELS, 3, 2, 2, 2, 2, 2, 2)  # z, colour, y4, y2, y1, x4, x2, x1
    kernel = patch.permute(0, 3, 6, 4, 7, 1, 2, 5).reshape(CHANNELS, 2, 2, 12, 2, 2)
    kernel = kernel.reshape(CHANNELS, 48, 2, 2)
    halves[2][:CHANNELS, :48, 1:, 1:] = kernel
    halves[2][CHANNELS : 2 * CHANNELS, :48, 1:, 1:] = -kernel
    for c in range(CHANNELS):
        last[c, c, 1, 1], last[c, c + CHANNELS, 1, 1] = 1, -1
    weights["14.bias"] = -linear.mean @ linear.basis
    return weights


def _compact(value: Tensor) -> Tensor:
    """In 8 bits where that is exact (the encoder's zeros and ones), else in half precision; loading widens both."""
    eighth = value.to(torch.float8_e4m3fn)
    return (eighth if torch.equal(eighth.float(), value) else value.half()).contiguous()


def save_vae(path: Path, linear: LinearEncoder, decoder: dict[str, Tensor]) -> None:
    """Writes the one file that the stock VAELoader takes."""
    from comfy.taesd.taesd import Encoder

    encoder = encoder_weights(linear, Encoder(CHANNELS).state_dict())
    weights = {f"taesd_encoder.{k}": v for k, v in encoder.items()}
    weights |= {f"taesd_decoder.{k}": v for k, v in decoder.items()}
    weights = {name: _compact(value) for name, value in weights.items()}
    weights |= {"vae_scale": torch.tensor(FLUX_SCALE), "vae_shift": torch.tensor(FLUX_SHIFT)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"format": "pt", "license": "GPL-3.0-or-later"})


def save_linear(path: Path, linear: LinearEncoder) -> None:
    """Keeps the fitted encoder for later stages."""
    save_file({"basis": linear.basis.contiguous(), "mean": linear.mean}, path)


def load_linear(path: Path) -> LinearEncoder:
    """Reads what save_linear wrote."""
    return LinearEncoder(**load_file(path))


def build_decoder() -> nn.Module:
    """TAESD's decoder for 16 channels, freshly initialised: [B, 16, h, w] in z to [B, 3, 8h, 8w] in 0..1."""
    from comfy.taesd.taesd import Decoder

    decoder = Decoder(CHANNELS)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in decoder.named_parameters():
        if name.endswith("conv.4.weight"):
            parameter.data.mul_(0.1)
    return decoder.to(memory_format=torch.channels_last)


def decoder_loss(
    decoder: nn.Module, linear: LinearEncoder, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Loss of one batch of fresh crops (L1 on values and on differences of neighbours) and PSNR in dB, both scalars."""
    size = (256, 512)[torch.randint(2, (), generator=generator)]
    crops = draw_crops(count, size, 64, generator)
    latents = linear(crops)
    latents = latents + NOISE * torch.randn(latents.shape, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = decoder(latents.contiguous(memory_format=torch.channels_last))
    error = decoded.float() - crops
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    psnr = -10 * error.detach().clamp(-1, 1).square().mean().log10()
    return error.abs().mean() + 0.5 * edges, psnr
