"""Codecs with one to four bits per value: the optimal levels for a bell-shaped residual, scaled per token and channel.

Legend: N tokens, C channels, b bits.

Levels after S. Lloyd, "Least squares quantization in PCM" (1982) and J. Max, "Quantizing for minimum distortion"
(1960); the scale of a value as the product of a token and a channel factor after CompactFusion (arXiv 2507.17511).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..bitpack import PLANES, look_up, pack_planes, value_table
from ..constant import Constant
from ..row_blocks import row_blocks
from .codec import SMALLEST_SCALE, Codec

GAUSS = {
    1: (1.0,),
    2: (0.56748, 1.89303),
    3: (0.30718, 0.94751, 1.68434, 2.69706),
    4: (0.16092, 0.48635, 0.82313, 1.18105, 1.57445, 2.02792, 2.59313, 3.42479),
}
LAPLACE = {
    1: (1.0,),
    2: (0.59362, 2.59362),
    3: (0.33008, 1.17799, 2.36523, 4.36523),
    4: (0.17534, 0.57253, 1.03047, 1.57117, 2.23133, 3.07923, 4.26648, 6.26648),
}
"""Positive levels per number of bits, in units of the mean magnitude; the negative ones mirror them."""
DISTORTION = {1: 0.363, 2: 0.1175, 3: 0.0345, 4: 0.0095}
"""The part of a Gaussian residual's energy that is lost, per number of bits (Max 1960)."""

HEAVY_TAIL = 1.33
"""Threshold for the ratio of root-mean-square to mean magnitude: a Gaussian has 1.2533, a Laplace density 1.4142."""
SAMPLE = 1 << 14
"""Number of values sampled to tell the two densities apart."""
FAINT = 2.0**-64
"""A channel whose mean magnitude is a smaller part of the mean of all is sent as zeros: its scale squared would leave
the range of float32."""
ROW = 8
"""The codes of a token are padded to a multiple of this number, so that every token starts with a whole byte."""


class LloydMax(Codec):
    """Quantises to 2**b levels times a scale s_nc = u_n * v_c. v is the mean magnitude of a channel, u the mean
    magnitude of a token divided by the mean of all.

    Payload, with C' = C rounded up to a multiple of 8:

        | table: uint8 | 0: uint8 | u': N x bfloat16 | v: C x bfloat16 | codes: N * C' x b bits |

    That is b + 16 (N + C) / (N C) bits per value if C = C', and two bytes. Codes are in (N, C') order and count the
    levels from the most negative up; those beyond C are 0. They are packed as `bitpack` draws it: for 3 bits a plane of
    N * C' / 4 bytes, then one of N * C' / 8. A value is decoded as (level * u'_n) * v_c.

    table is 0 for the Gaussian levels and 1 for the Laplacian; the ratio of root-mean-square to mean magnitude of a
    sample decides (on Laplace data that takes 14 % off the squared error at 2 bits and 60 % at 4). The code of a value
    is found with u and v as rounded to bfloat16, which has the range of float32. Once the codes of a token are known,
    the scale u'_n that is sent is the one with the least squared error, u_n <d, e> / <e, e> for the token's residual d
    and its values e decoded with u_n. So no token has a larger error than zeros would give, even where an outlier token
    and an outlier channel cross (with u_n alone the squared error of 1 bit is 47 times the data's own there).
    """

    in_ratio = True

    def __init__(self, bits: int, ident: int) -> None:
        self.name, self.ident, self.value_bits, self.place = f"{bits}bit", ident, bits, 70 - 10 * bits
        self.distortion, self.in_auto = DISTORTION[bits], bits > 1
        self._grids = tuple(_Grid(levels[bits]) for levels in (GAUSS, LAPLACE))
        tables = [value_table(_symmetric(levels[bits]), bits) for levels in (GAUSS, LAPLACE)]
        self._values = Constant(torch.stack(tables))

    def nbytes(self, tokens: int, channels: int) -> int:
        """2 + 2 * (N + C) + N * C' * b / 8."""
        return 2 + 2 * (tokens + channels) + tokens * _padded(channels) * self.value_bits // 8

    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """See `Codec.encode`."""
        d_NC = residual_NC.float()
        tokens, channels = d_NC.shape
        u_N, v_C, mean = _scales(d_NC)
        iu_N1, iv_C = _inverse(u_N)[:, None], _inverse(v_C)
        every = max(1, d_NC.numel() // SAMPLE)
        table = self.value_bits > 1 and _heavy_tailed(d_NC[::every] * iu_N1[::every] * iv_C)
        values = self._values_of(table, d_NC.device)
        weight_C = (v_C.float() / mean).square()
        payload = torch.empty(self.nbytes(tokens, channels), dtype=torch.uint8, device=d_NC.device)
        parts = self._parts(payload, tokens, channels)
        parts.table[:1], parts.table[1] = table, 0
        parts.v_C[:] = v_C
        for rows_NC, rows_iu_N1, rows_u_N, sent_u_N, *sent_planes in row_blocks(
            d_NC, iu_N1, u_N, parts.u_N, *parts.planes
        ):
            z_NC = (rows_NC * rows_iu_N1).mul_(iv_C)
            codes_NC = self._codes(z_NC, table)
            if channels % ROW:
                codes_NC = pad(codes_NC, (0, -channels % ROW))
            planes = pack_planes(codes_NC.view(-1), self.value_bits)
            levels_NC = _rows(look_up(values, planes), channels)
            correction_N = torch.mv(z_NC.mul_(levels_NC), weight_C) / torch.mv(levels_NC.square(), weight_C)
            sent_u_N.copy_(torch.where(correction_N.isnan(), 1, correction_N) * rows_u_N)
            for plane, packed in zip(sent_planes, planes):
                plane.copy_(packed.view(plane.shape))
        return payload

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        parts = self._parts(payload, tokens, channels)
        table = parts.table[0] > 0
        values = self._values_of(bool(table) if table.device.type == "cpu" else table, payload.device)
        u_N1, v_C = parts.u_N.float()[:, None], parts.v_C.float()
        d_NC = torch.empty(tokens, channels, dtype=dtype, device=payload.device)
        for rows_NC, rows_u_N1, *planes in row_blocks(d_NC, u_N1, *parts.planes):
            levels_NC = _rows(look_up(values, [plane.view(-1) for plane in planes]), channels)
            torch.mul(levels_NC.mul_(rows_u_N1), v_C, out=rows_NC)
        return d_NC

    def _codes(self, z_NC: Tensor, laplace: bool | Tensor) -> Tensor:
        """The codes of values in units of their scales. If the host does not know the table, both are computed."""
        if isinstance(laplace, bool):
            return self._grids[laplace].codes(z_NC)
        return torch.where(laplace, *(self._grids[table].codes(z_NC) for table in (True, False)))

    def _values_of(self, laplace: bool | Tensor, device: torch.device) -> Tensor:
        """The table that `look_up` reads; `laplace` is a scalar on the device, or known to the host."""
        gaussian, laplacian = self._values.on(device)
        if isinstance(laplace, bool):
            return laplacian if laplace else gaussian
        return torch.where(laplace, laplacian, gaussian)

    def _parts(self, payload: Tensor, tokens: int, channels: int) -> _Parts:
        widths = [_padded(channels) * bits // 8 for bits in PLANES[self.value_bits]]
        sizes = [2, 2 * tokens, 2 * channels, *(tokens * width for width in widths)]
        table, u, v, *planes = payload.split(sizes)
        planes = [plane.view(tokens, width) for plane, width in zip(planes, widths)]
        return _Parts(table, u.view(torch.bfloat16), v.view(torch.bfloat16), planes)


class _Parts(NamedTuple):
    """Views of the parts of a payload; each plane is (N, bytes of a token)."""

    table: Tensor
    u_N: Tensor
    v_C: Tensor
    planes: list[Tensor]


class _Grid:
    """Finds the nearest level of a value through a grid of equal cells.

    The thresholds of up to four levels are at equal distances, so the number of the cell is the code. More levels use
    256 cells and one look-up; a threshold is then off by half a cell at most, which adds less than 1 % to the squared
    error. Zero is a cell border, so the sign is exact.
    """

    def __init__(self, positive: tuple[float, ...]) -> None:
        levels = _symmetric(positive)
        thresholds = (levels[1:] + levels[:-1]) / 2
        self._cells = len(levels) if len(levels) <= 4 else 256
        self._cells_per_unit = max(1, self._cells / 2 - 1) / max(float(thresholds[-1]), 1.0)
        middles = (torch.arange(self._cells) + 0.5 - self._cells / 2) / self._cells_per_unit
        codes = torch.bucketize(middles, thresholds).to(torch.uint8)
        self.codes_of_cells = Constant(codes) if self._cells > len(levels) else None

    def codes(self, z: Tensor) -> Tensor:
        """The code of each value of z (units of the mean magnitude): uint8, of the same shape."""
        cell = (z * self._cells_per_unit).add_(self._cells / 2).clamp_(0, self._cells - 1)
        cell = cell.to(torch.int32).to(torch.uint8)  # three times as fast as in one step; NaN becomes a cell too
        if self.codes_of_cells is None:
            return cell
        return self.codes_of_cells.on(z.device).index_select(0, cell.view(-1).int()).view(z.shape)


def _padded(channels: int) -> int:
    return -(-channels // ROW) * ROW


def _rows(levels: Tensor, channels: int) -> Tensor:
    return levels.view(-1, _padded(channels))[:, :channels]


def _symmetric(positive: tuple[float, ...]) -> Tensor:
    levels = torch.tensor(positive)
    return torch.cat([-levels.flip(0), levels])


def _scales(d_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u (N) and v (C) in bfloat16, and the mean magnitude of all values.

    Means are computed as products with a vector of 1 / n, because a plain sum could overflow.
    """
    tokens, channels = d_NC.shape
    over_N, over_C = (torch.full((n,), 1 / n, device=d_NC.device) for n in (tokens, channels))
    u_N, v_C = torch.empty(tokens, device=d_NC.device), torch.zeros(channels, device=d_NC.device)
    for rows_NC, rows_u_N, rows_over_N in row_blocks(d_NC, u_N, over_N):
        magnitude = rows_NC.abs()
        torch.mv(magnitude, over_C, out=rows_u_N)
        v_C += rows_over_N @ magnitude
    mean = (v_C @ over_C).clamp(min=SMALLEST_SCALE)
    u_N /= mean
    return u_N.bfloat16(), torch.where(v_C >= (mean * FAINT).clamp(min=SMALLEST_SCALE), v_C, 0).bfloat16(), mean


def _inverse(scale: Tensor) -> Tensor:
    scale = scale.float()
    return torch.where(scale >= SMALLEST_SCALE, scale.reciprocal(), 0)


def _heavy_tailed(z: Tensor) -> bool | Tensor:
    """Whether the values have heavy tails: known to the host on a CPU, else a scalar on the device."""
    z = z.reshape(-1)
    heavy = (torch.dot(z, z) / len(z)).sqrt() > HEAVY_TAIL * z.abs().mean()
    return bool(heavy) if z.device.type == "cpu" else heavy


CODECS = (LloydMax(1, ident=2), LloydMax(2, ident=3), LloydMax(3, ident=5), LloydMax(4, ident=4))
