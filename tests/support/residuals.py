"""Random residuals of several kinds for the tests of codecs, and the error that a codec makes on them.

Legend: N tokens, C channels, R rank.
"""

from __future__ import annotations

import torch


def generator(seed: int) -> torch.Generator:
    """A new generator with this seed."""
    return torch.Generator().manual_seed(seed)


def gauss(n: int = 512, c: int = 768, seed: int = 0) -> torch.Tensor:
    """Normal values (N, C)."""
    return torch.randn(n, c, generator=generator(seed))


def laplace(n: int = 512, c: int = 768, seed: int = 0) -> torch.Tensor:
    """Values (N, C) with the tails of a double exponential."""
    uniform = torch.rand(n, c, generator=generator(seed)) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


def low_rank(n: int = 544, c: int = 1536, decay: float = 1.0, noise: float = 0.1, tokens: int = 0) -> torch.Tensor:
    """(N, C) of 64 directions with singular values proportional to j^-decay, norm 1, plus noise of norm `noise`.

    Another `tokens` gives other token directions and noise with the same channel directions.
    """
    directions = min(64, n, c)
    u = torch.linalg.qr(gauss(n, directions, seed=10 + tokens)).Q
    v = torch.linalg.qr(gauss(c, directions, seed=5)).Q
    sigma = torch.arange(1.0, directions + 1) ** -decay
    rest = gauss(n, c, seed=20 + tokens)
    return (u * (sigma / sigma.norm())) @ v.T + rest * (noise / rest.norm())


def crossing(n: int, c: int, size: float) -> torch.Tensor:
    """Noise (N, C) with one outlier token and one outlier channel; the value where they cross is ordinary."""
    d = gauss(n, c)
    d[n // 2] *= size
    d[:, c // 2] *= size
    d[n // 2, c // 2] = 0.5
    return d


def round_trip(codec, d: torch.Tensor) -> torch.Tensor:
    """The decoded residual, float32."""
    return codec.decode(codec.encode(d), *d.shape, torch.float32)


def lost(d: torch.Tensor, d_hat: torch.Tensor) -> float:
    """||d - d_hat||^2 / ||d||^2; ||d_hat||^2 if d is zero."""
    d, d_hat = d.double(), d_hat.double()
    largest = d.abs().max()  # the square of the smallest subnormal is 0 even in float64
    if not largest:
        return float(d_hat.square().sum())
    return float(((d - d_hat) / largest).square().sum() / (d / largest).square().sum())


def squared_error(codec, d: torch.Tensor) -> float:
    """The relative squared error of one round trip."""
    return lost(d, round_trip(codec, d))
