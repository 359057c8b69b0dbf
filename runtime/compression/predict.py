"""What both ends expect of a tensor before it is sent: base + k * (base - previous base).

Legend: N tokens, C channels. `bases` are the last reconstructions, newest first, at most two; how many a stream keeps
is its order (CompactFusion, arXiv 2507.17511): 0 sends the tensor itself, 1 expects the base, 2 extrapolates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chunks import row_chunks

ORDERS = {"none": 0, "previous": 1, "least_squares": 2}
"""Bases that each predictor keeps."""


def fit(x_NC: Tensor, bases: tuple[Tensor, ...]) -> float:
    """The k in [-1, 1] that brings `predict` closest to x (N, C, float32) by least squares; 0 without two bases."""
    if len(bases) < 2:
        return 0.0
    wanted, available = torch.zeros((2,), device=x_NC.device)
    for rows in row_chunks(*x_NC.shape, x_NC.device):
        base, previous = (b_NC[rows].float() for b_NC in bases)
        trend = (base - previous).view(-1)
        wanted += torch.dot((x_NC[rows] - base).view(-1), trend)
        available += torch.dot(trend, trend)
    return float((wanted / available).nan_to_num(0, 0, 0).clamp(-1, 1))


def predict(bases: tuple[Tensor, ...], k: float) -> Tensor | None:
    """The expected tensor (N, C), new, float32; None without a base.

    Both ends run this and must get equal bits: each operation is element-wise and rounded on its own (an addition with
    `alpha` may be fused on one machine and not on another).
    """
    if not bases:
        return None
    expected_NC = bases[0].to(torch.float32, copy=True)
    if k != 0:
        for rows in row_chunks(*expected_NC.shape, expected_NC.device):
            expected_NC[rows] += (expected_NC[rows] - bases[1][rows]).mul_(k)
    return expected_NC
