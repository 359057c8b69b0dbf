"""The predictor of residual compression: both ends predict a tensor as base + k * (base - previous base).

Legend: N tokens, C channels. `bases` are the last reconstructions, newest first, at most two. The number that a stream
keeps is its order (CompactFusion, arXiv 2507.17511): 0 sends the tensor itself, 1 predicts the base, 2 extrapolates.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from .row_blocks import row_blocks

ORDERS = {"none": 0, "previous": 1, "least_squares": 2}
"""Number of bases that each predictor keeps."""


def fit(x_NC: Tensor, bases: tuple[Tensor, ...]) -> tuple[float, float, float]:
    """(k, ||x||^2, ||x - predict||^2) for the k in [-1, 1] that minimises the last; x (N, C) is float32.

    k is 0 without two bases. Squares outside the range of float32 come out as 0, infinity or NaN.
    """
    norm, missing, wanted, available = products(x_NC, bases).tolist()
    k = float32(max(-1.0, min(1.0, wanted / available))) if 0 < available < math.inf else 0.0
    return k, norm, missing - 2 * k * wanted + k * k * available


def products(x_NC: Tensor, bases: tuple[Tensor, ...]) -> Tensor:
    """(4,) float32: <x, x>, <m, m>, <m, t>, <t, t> with m = x - base and t = base - previous base."""
    sums = torch.zeros(4, device=x_NC.device)
    for x, *based in row_blocks(x_NC, *bases):
        if not based:
            sums[:2] += _dot(x, x)
            continue
        base = based[0].float()
        missing, trend = x - base, base - based[-1]
        sums += torch.stack([_dot(x, x), _dot(missing, missing), _dot(missing, trend), _dot(trend, trend)])
    return sums


def predict(bases: Sequence[Tensor], k: float) -> Tensor:
    """The predicted tensor, float32 (do not write to it); `bases` has at least one.

    Both ends run this and must get equal bits: each operation is element-wise and rounded on its own (an addition with
    `alpha` may be fused on one machine and not on another).
    """
    base = bases[0].float()
    return base if k == 0 else (base - bases[1]).mul_(k).add_(base)


def float32(value: float) -> float:
    """The float32 nearest to `value`, as a header carries it."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return torch.dot(x.view(-1), y.view(-1))
