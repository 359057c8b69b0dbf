"""Metrics of the difference between two pictures, latents or model outputs: relative errors, PSNR, SSIM.

Legend: B batch, H height, W width, C channels. Pictures are ComfyUI's IMAGE, x_BHWC in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def _same_shape(x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != reference.shape:
        raise ValueError(f"The shapes differ: {tuple(x.shape)} and {tuple(reference.shape)}.")
    return x.double(), reference.double()


def relative_error(x: Tensor, reference: Tensor) -> float:
    """Largest absolute difference divided by the largest absolute value of `reference`; any shape, equal in both.

    0 for two zero tensors; infinity for other tensors against a zero reference. Raises ValueError for unequal shapes.
    """
    x, reference = _same_shape(x, reference)
    difference = (x - reference).abs().max().item()
    scale = reference.abs().max().item()
    if scale == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / scale


def difference(x: Tensor | Sequence[Tensor], reference: Tensor | Sequence[Tensor]) -> float:
    """||x - reference|| / ||reference||, in float64; the largest of them for several tensors (video and sound)."""
    pairs = [(x, reference)] if isinstance(reference, Tensor) else list(zip(x, reference))
    return max(float((one - other).double().norm() / other.double().norm()) for one, other in pairs)


def psnr(x: Tensor, reference: Tensor, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / mean squared error); infinite for equal pictures.

    Raises ValueError for unequal shapes.
    """
    x, reference = _same_shape(x, reference)
    mse = (x - reference).square().mean().item()
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)


def ssim(x_BHWC: Tensor, reference_BHWC: Tensor, peak: float = 1.0) -> float:
    """Mean structural similarity, 1 for equal pictures, over all positions where a whole window fits.

    Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural similarity, 2004; the
    standard 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03. Raises ValueError for unequal shapes and for
    pictures smaller than the window.
    """
    x, reference = _same_shape(x_BHWC, reference_BHWC)
    if min(x.shape[1:3]) < _WINDOW:
        raise ValueError(f"A picture of {x.shape[2]} x {x.shape[1]} is smaller than the {_WINDOW} x {_WINDOW} window.")
    channels = x.shape[3]
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    gauss = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    window = torch.outer(gauss, gauss) / gauss.sum() ** 2
    kernel = window.expand(channels, 1, _WINDOW, _WINDOW)

    def blur(y_BHWC: Tensor) -> Tensor:
        return functional.conv2d(y_BHWC.permute(0, 3, 1, 2), kernel, groups=channels)

    mean_x, mean_r = blur(x), blur(reference)
    var_x, var_r = blur(x * x) - mean_x**2, blur(reference * reference) - mean_r**2
    covariance = blur(x * reference) - mean_x * mean_r
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    luminance = (2 * mean_x * mean_r + c1) / (mean_x**2 + mean_r**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_r + c2)
    return (luminance * structure).mean().item()
