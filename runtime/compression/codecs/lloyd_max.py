"""One, two and four bits per value: the best levels for a bell-shaped residual, scaled per token and per channel.

Legend: N tokens, C channels, b bits.

Levels after S. Lloyd, "Least squares quantization in PCM" (1982) and J. Max, "Quantizing for minimum distortion"
(1960); the scale of a value as the product of a token and a channel factor after CompactFusion (arXiv 2507.17511).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bitpack import byte_table, look_up, pack, packed_bytes
from ..chunks import row_chunks
from .base import Codec

GAUSS = {
    1: (1.0,),
    2: (0.56751, 1.89307),
    4: (0.16105, 0.48668, 0.82361, 1.18163, 1.57509, 2.02858, 2.59376, 3.42535),
}
LAPLACE = {
    1: (1.0,),
    2: (0.59371, 2.59381),
    4: (0.17563, 0.57332, 1.03169, 1.57276, 2.23322, 3.08137, 4.26878, 6.26888),
}
"""Positive levels per number of bits, in units of the mean magnitude; the negative ones mirror them."""

HEAVY_TAIL = 1.33
"""Between the ratio of root-mean-square to mean magnitude of a Gaussian (1.2533) and of a Laplace density (1.4142)."""
SAMPLE = 1 << 14
"""Values looked at to tell the two apart."""
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


class LloydMax(Codec):
    """2**b levels times scale s_nc = u_n * v_c, where v is the mean magnitude of a channel and u that of a token over
    the mean of all.

    Payload, b + 16 (N + C) / (N C) bits per value and two bytes:

        | table: uint8 | 0: uint8 | u: N x bfloat16 | v: C x bfloat16 | codes: N * C x b bits, see bitpack |

    table is 0 for the Gaussian levels and 1 for the Laplacian; the ratio of root-mean-square to mean magnitude of a
    sample tells which (on Laplace data that takes 14 % off the squared error at 2 bits and 60 % at 4). Codes are in
    (N, C) order and count the levels from the most negative up. u and v travel in bfloat16, which has the range of
    float32; the code of a value is found with the rounded ones.
    """

    def __init__(self, bits: int, ident: int) -> None:
        self.name, self.ident, self._bits = f"{bits}bit", ident, bits
        self._grids = tuple(_Grid(levels[bits]) for levels in (GAUSS, LAPLACE))
        self._values = tuple(byte_table(_symmetric(levels[bits]), bits) for levels in (GAUSS, LAPLACE))

    def nbytes(self, tokens: int, channels: int) -> int:
        """2 + 2 * (N + C) + ceil(N * C * b / 8)."""
        return 2 + 2 * (tokens + channels) + packed_bytes(tokens * channels, self._bits)

    def encode(self, residual_NC: Tensor) -> Tensor:
        """See `Codec.encode`."""
        d_NC = residual_NC.float()
        tokens, channels = d_NC.shape
        u_N, v_C = _scales(d_NC)
        iu_N1, iv_C = _inverse(u_N)[:, None], _inverse(v_C)
        every = max(1, d_NC.numel() // SAMPLE)
        table = int(self._bits > 1 and _heavy_tailed(d_NC[::every] * iu_N1[::every] * iv_C))
        head = torch.tensor([table, 0], dtype=torch.uint8, device=d_NC.device)
        parts = [head, u_N.view(torch.uint8), v_C.view(torch.uint8)]
        grid = self._grids[table]
        for rows in row_chunks(tokens, channels, d_NC.device):
            parts.append(pack(grid.codes((d_NC[rows] * iu_N1[rows]).mul_(iv_C)), self._bits))
        return torch.cat(parts)

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        table = self._values[int(payload[0])].to(payload.device)
        u_N, v_C = payload[2 : 2 + 2 * (tokens + channels)].view(torch.bfloat16).float().split([tokens, channels])
        codes = payload[2 + 2 * (tokens + channels) :]
        d_NC = torch.empty(tokens, channels, dtype=dtype, device=payload.device)
        for rows in row_chunks(tokens, channels, payload.device):
            first, values = rows.start * channels, (rows.stop - rows.start) * channels
            some = codes[first * self._bits // 8 :][: packed_bytes(values, self._bits)]
            levels = look_up(table, some)[:values].view(-1, channels)
            torch.mul(levels.mul_(u_N[rows, None]), v_C, out=d_NC[rows])
        return d_NC


class _Grid:
    """Finds the nearest level of a value by the number of the cell it is in.

    Up to four levels have thresholds at equal distances: the cells between them are the codes. More levels take 256
    equal cells and one look-up; a threshold is then off by half a cell at most, which adds less than 1 % to the squared
    error. Zero is a cell border, so the sign is exact.
    """

    def __init__(self, positive: tuple[float, ...]) -> None:
        levels = _symmetric(positive)
        thresholds = (levels[1:] + levels[:-1]) / 2
        self._cells = len(levels) if len(levels) <= 4 else 256
        self._cells_per_unit = max(1, self._cells / 2 - 1) / max(float(thresholds[-1]), 1.0)
        middles = (torch.arange(self._cells) + 0.5 - self._cells / 2) / self._cells_per_unit
        self._code = torch.bucketize(middles, thresholds).to(torch.uint8) if self._cells > len(levels) else None

    def codes(self, z: Tensor) -> Tensor:
        """The code of each value of z (any shape, overwritten; units of the mean magnitude): uint8, 1-D."""
        cell = z.mul_(self._cells_per_unit).add_(self._cells / 2).clamp_(0, self._cells - 1).view(-1)
        cell = cell.to(torch.int32).to(torch.uint8)  # three times as fast as at once; NaN becomes a cell too
        return cell if self._code is None else self._code.to(z.device).index_select(0, cell.int())


def _symmetric(positive: tuple[float, ...]) -> Tensor:
    levels = torch.tensor(positive)
    return torch.cat([-levels.flip(0), levels])


def _scales(d_NC: Tensor) -> tuple[Tensor, Tensor]:
    """u (N) and v (C) in bfloat16. Means are products with a vector of 1 / n: a plain sum could overflow."""
    tokens, channels = d_NC.shape
    over_N, over_C = (torch.full((n,), 1 / n, device=d_NC.device) for n in (tokens, channels))
    u_N, v_C = torch.empty(tokens, device=d_NC.device), torch.zeros(channels, device=d_NC.device)
    for rows in row_chunks(tokens, channels, d_NC.device):
        magnitude = d_NC[rows].abs()
        torch.mv(magnitude, over_C, out=u_N[rows])
        v_C += over_N[rows] @ magnitude
    u_N /= (v_C @ over_C).clamp(min=SMALLEST_SCALE)
    return u_N.bfloat16(), torch.where(v_C >= SMALLEST_SCALE, v_C, 0).bfloat16()


def _inverse(scale: Tensor) -> Tensor:
    scale = scale.float()
    return torch.where(scale >= SMALLEST_SCALE, scale.reciprocal(), 0)


def _heavy_tailed(z: Tensor) -> bool:
    z = z.reshape(-1)
    return bool((torch.dot(z, z) / len(z)).sqrt() > HEAVY_TAIL * z.abs().mean())


CODECS = (LloydMax(1, ident=2), LloydMax(2, ident=3), LloydMax(4, ident=4))
