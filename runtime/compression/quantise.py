"""One step of residual compression in plain PyTorch, with any codec: subtract the prediction, encode, reconstruct.

    sender:    d = x - expected;  payload = encode(d);  x_hat = expected + decode(payload)
    receiver:                                            x_hat = expected + decode(payload)

This is the reference, for tensors of the CPU: the ways of a GPU (on_device.py, kernels/) must give equal results.
`expected` is the prediction (see predict.py), or zero where that is worse. encode and decode are the codec's (codecs/).

Legend: N tokens, C channels. Tensors are (N, C); x_hat has the dtype of the tensor that is sent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .codecs import Codec
from .predict import fit, predict
from .row_blocks import row_blocks

SMALLEST_SQUARE = 1e-30


class Encoding(NamedTuple):
    """One tensor to encode into `payload` (uint8, of the length that the codec gives), with zeros into `padding`.

    `bases` are those of the stream, newest first. The stream keeps at most `keep` bases after this message; older ones
    may be overwritten. `previous` is the stream's last payload of this codec, for codecs with a warm start.
    """

    x_NC: Tensor
    codec: Codec
    bases: tuple[Tensor, ...]
    keep: int
    previous: Tensor | None
    payload: Tensor
    padding: Tensor

    def write(self, payload: Tensor) -> None:
        """Writes the payload, and the zeros behind it."""
        self.payload.copy_(payload)
        if len(self.padding):
            self.padding.zero_()


class Decoding(NamedTuple):
    """One tensor to decode from `payload` into `out_NC`, a view of any row stride. `bases` and `keep` are as for
    Encoding."""

    payload: Tensor
    codec: Codec
    bases: tuple[Tensor, ...]
    keep: int
    out_NC: Tensor


class Coded(NamedTuple):
    """The result of encoding a tensor. The prediction used `used` bases (all or none), with the factor `k`. `finite`:
    the tensor holds no NaN or Inf; else the rest is meaningless."""

    x_hat_NC: Tensor
    finite: bool
    used: int
    k: float
    missing: float
    """||x - expected|| / ||x||: the relative size of the residual."""
    error: float
    """||x - x_hat|| / ||x||."""


def encode(task: Encoding) -> Coded:
    """Encodes one tensor.

    If the prediction is no nearer to x than zeros are (another picture, a spike in the last call), x itself is encoded.
    """
    x_NC, codec = task.x_NC.float().contiguous(), task.codec
    k, norm, missing = fit(x_NC, task.bases)
    used = task.bases if missing < norm else ()
    expected = _expected(used, k)
    task.write(codec.encode(x_NC - expected[0] if expected else x_NC, task.previous))
    x_hat_NC = _restore(task.payload, codec, expected, 0.0, x_NC.shape, task.x_NC.dtype)
    relative = math.sqrt(max(missing, 0.0) / norm) if used and norm < math.inf else 1.0
    error = relative_error(x_NC, x_hat_NC, norm, lost_square(x_NC, x_hat_NC))
    return Coded(x_hat_NC, math.isfinite(error), len(used), k, relative, error)


def decode(task: Decoding, used: int, k: float) -> Tensor:
    """Decodes one tensor, whose prediction used `used` bases (all or none) with the factor `k`.

    Returns x_hat (N, C), a new tensor, and writes the same values into `out_NC`.
    """
    out_NC = task.out_NC
    x_hat_NC = _restore(task.payload, task.codec, task.bases[:used], k, out_NC.shape, out_NC.dtype)
    out_NC.copy_(x_hat_NC)
    return x_hat_NC


def _restore(
    payload: Tensor, codec: Codec, bases: tuple[Tensor, ...], k: float, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """expected + decode(payload), in `dtype`: the same bits at both ends."""
    x_hat_NC = codec.decode(payload, *shape, torch.float32)
    for x_hat, *based in row_blocks(x_hat_NC, *bases):
        if based:
            x_hat.add_(predict(based, k))
        _clamp(x_hat, dtype)
    return x_hat_NC.to(dtype)


def supplement(x_NC: Tensor, x_hat_NC: Tensor, codec: Codec) -> tuple[Tensor, Tensor, float]:
    """(payload of x - x_hat, the improved x_hat, its relative error)."""
    x_NC = x_NC.float().contiguous()
    payload = codec.encode(x_NC - x_hat_NC.float())
    better_NC = add_supplement(x_hat_NC, payload, codec)
    norm = float(torch.linalg.vector_norm(x_NC)) ** 2
    return payload, better_NC, relative_error(x_NC, better_NC, norm, lost_square(x_NC, better_NC))


def add_supplement(x_hat_NC: Tensor, payload: Tensor, codec: Codec) -> Tensor:
    """x_hat plus the supplement, a new tensor of its dtype."""
    total_NC = codec.decode(payload, *x_hat_NC.shape, torch.float32).add_(x_hat_NC)
    return _clamp(total_NC, x_hat_NC.dtype).to(x_hat_NC.dtype)


def lost_square(x_NC: Tensor, x_hat_NC: Tensor) -> float:
    """||x - x_hat||^2 in float32 for x in float32."""
    lost = torch.zeros((), device=x_NC.device)
    for x, x_hat in row_blocks(x_NC, x_hat_NC):
        difference = (x - x_hat).view(-1)
        lost += torch.dot(difference, difference)
    return float(lost)


def relative_error(x_NC: Tensor, x_hat_NC: Tensor, norm: float, lost: float) -> float:
    """||x - x_hat|| / ||x||, where `norm` is ||x||^2 and `lost` ||x - x_hat||^2 in float32."""
    if lost > SMALLEST_SQUARE and norm < math.inf:
        return math.sqrt(lost / norm)
    x_NC = x_NC.float()
    wide = [float(torch.linalg.vector_norm(y, dtype=torch.float64)) for y in (x_NC - x_hat_NC, x_NC)]
    return wide[0] / (wide[1] or 1.0)


def _expected(bases: tuple[Tensor, ...], k: float) -> tuple[Tensor, ...]:
    """The prediction (N, C) as a base of its own, since encoding needs it twice; nothing without bases."""
    if k == 0 or not bases:
        return bases[:1]
    expected_NC = torch.empty(bases[0].shape, device=bases[0].device)
    for expected, *based in row_blocks(expected_NC, *bases):
        expected.copy_(predict(based, k))
    return (expected_NC,)


def _clamp(x_NC: Tensor, dtype: torch.dtype) -> Tensor:
    """Clamps x, in place, to the range of `dtype`."""
    largest = torch.finfo(dtype).max
    return x_NC.clamp_(-largest, largest)
