"""Codecs that send two low-rank factors instead of the values: for residuals in which many tokens change alike.

Legend: N tokens, C channels, R rank, W >= R columns of the search.

Subspace iteration after Halko, Martinsson and Tropp, "Finding structure with randomness" (2011), algorithm 4.4, with
CholeskyQR; the warm start from the last result after PowerSGD (arXiv 1905.13727).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..bitpack import look_up, pack, packed_bytes, value_table
from ..constant import Constant
from ..row_blocks import row_blocks
from .codec import SMALLEST_SCALE, Codec

RANK = 16
LARGEST_RANK = 1024
"""The sum of this many products of two 8-bit integers stays below 2^24, so it is exact in float32."""
ROUNDS = 2
EXTRA = 8
"""Columns of the search beyond the rank."""
FRESH = 1e-3
"""The random part of a warm start: it finds directions that the last payload did not have."""
SEED = 0
DEPENDENT = 1e-13
"""A direction with a smaller part of the squared norm is float32 noise."""
ALMOST_ZERO = 1e-150
"""The smallest divisor: far below the square of any float32, yet in the range of float64."""


class LowRank(Codec):
    """Approximates a residual as d_nc = (sum over j of a_nj * b_cj) * s_n * t_c, with integers a and b.

    Payload, with R = min(rank, N, C):

        | s: N x bfloat16 | t: C x bfloat16 | a: N * R integers | b: C * R integers |

    Integers of 8 bits (-127..127) are sent as int8. Integers of 4 bits (-7..7) are sent with 8 added, packed as in
    bitpack; a and b each fill whole bytes. Either way the sum is exact in float32, whatever its order; the products
    with s_n and then t_c are rounded one by one.

    `encode` finds the R directions by ROUNDS rounds of subspace iteration, starting from random directions or from
    those in `previous`. Before a is rounded, its columns are scaled to the square roots of the singular values and
    mixed by an orthogonal matrix, so that all integers matter about equally: at 4 bits that more than halves the error
    if a few directions dominate. Then b is fitted to the rounded a, and t to both: no channel has a larger error than
    zeros would give.

    One round from a warm start would be enough if the directions stayed the same. In a closed loop they do not, because
    the residual is what the last message lacked: on keys and values of the tiny model one warm round leaves a third
    more error than two, and two warm rounds 2 % less than two cold ones (tests/bench/closed_loop.py).
    """

    place = 70
    warm_starts = True

    def __init__(self, name: str, ident: int, bits: int, rank: int = RANK) -> None:
        if rank < 1:
            raise ValueError(f"rank is {rank}; it must be at least 1.")
        self.name, self.ident, self.in_ratio = name, ident, bits == 8
        self._bits, self._rank = bits, min(rank, LARGEST_RANK)
        self._largest = 2 ** (bits - 1) - 1
        self._integers = Constant(value_table(torch.arange(-8.0, 8.0), 4)) if bits == 4 else None

    def configured(self, rank: int) -> LowRank:
        """See `Codec.configured`."""
        return LowRank(self.name, self.ident, self._bits, rank)

    def nbytes(self, tokens: int, channels: int) -> int:
        """2 * (N + C) + ceil(N * R * bits / 8) + ceil(C * R * bits / 8)."""
        return sum(self._sizes(tokens, channels))

    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """See `Codec.encode`."""
        d_NC = residual_NC.float()
        start_CW = self._start(*d_NC.shape, d_NC.device, previous)
        u_NW = d_NC @ _orthonormal(start_CW)
        for _ in range(ROUNDS - 1):
            u_NW = d_NC @ _orthonormal((_orthonormal(u_NW).T @ d_NC).T)
        a_NR, s_N = self._rounded(_balanced(u_NW, min(self._rank, *d_NC.shape)))
        b_CR, t_C = self._fitted(d_NC, a_NR.float() * s_N.float()[:, None])
        return torch.cat([s_N.view(torch.uint8), t_C.view(torch.uint8), self._packed(a_NR), self._packed(b_CR)])

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        parts = self._parts(payload, tokens, channels)
        d_NC = torch.empty(tokens, channels, dtype=dtype, device=payload.device)
        for rows_NC, a_NR, s_N1 in row_blocks(d_NC, parts.a_NR, parts.s_N[:, None]):
            torch.mul((a_NR @ parts.b_CR.T).mul_(s_N1), parts.t_C, out=rows_NC)
        return d_NC

    def _start(self, tokens: int, channels: int, device: torch.device, previous: Tensor | None) -> Tensor:
        """Start directions (C, W) of the search: random; with `previous` the first R are nearly those it holds."""
        rank = min(self._rank, tokens, channels)
        width = min(rank + EXTRA, tokens, channels)
        random_CW = _random(channels, width).on(device)
        if previous is None:
            return random_CW
        parts = self._parts(previous, tokens, channels)
        known_CR = parts.b_CR.double() * parts.t_C.nan_to_num(0, 0, 0)[:, None]
        known_CR *= math.sqrt(channels * rank) / FRESH / known_CR.norm().clamp(min=ALMOST_ZERO)
        return torch.cat([random_CW[:, :rank] + known_CR, random_CW[:, rank:]], 1)

    def _fitted(self, d_NC: Tensor, u_NR: Tensor) -> tuple[Tensor, Tensor]:
        """Integers b (C, R) and scales t (C) such that u_NR (t b)^T approximates d.

        b is the rounded ridge-regression solution. The ridge is the noise that rounding is expected to add, so
        directions that are weak in u do not make b large. t minimises the squared error of each channel.
        """
        moment_CR = (u_NR.T @ d_NC).T.double()
        gram_RR = _gram(u_NR)
        noise = gram_RR.trace() / (3 * self._largest**2 * len(gram_RR))
        v_CR = torch.cholesky_solve(moment_CR.T, _cholesky(gram_RR, noise)).T
        b_CR, t_C = self._rounded(v_CR)
        wanted_C, energy_C = (b_CR * moment_CR).sum(1), ((b_CR @ gram_RR) * b_CR).sum(1)
        return b_CR, torch.where(energy_C * t_C > 0, wanted_C / energy_C, 0).float().bfloat16()

    def _rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integers of the shape of x (rows, R), in its dtype, and the scale of each row (bfloat16)."""
        scale = (x.abs().amax(1) / self._largest).float().bfloat16()
        scale = torch.where(scale >= SMALLEST_SCALE, scale, 0)
        inverse = torch.where(scale > 0, scale.to(x.dtype).reciprocal(), 0)
        return (x * inverse[:, None]).round_().clamp_(-self._largest, self._largest), scale

    def _sizes(self, tokens: int, channels: int) -> list[int]:
        rank = min(self._rank, tokens, channels)
        factors = [n * rank if self._bits == 8 else packed_bytes(n * rank, 4) for n in (tokens, channels)]
        return [2 * tokens, 2 * channels, *factors]

    def _packed(self, integers: Tensor) -> Tensor:
        integers = integers.reshape(-1)
        return integers.to(torch.int8).view(torch.uint8) if self._bits == 8 else pack((integers + 8).to(torch.uint8), 4)

    def _unpacked(self, packed: Tensor, rows: int, rank: int) -> Tensor:
        if self._bits == 8:
            return packed.view(torch.int8).view(rows, rank).float()
        return look_up(self._integers.on(packed.device), [packed])[: rows * rank].view(rows, rank)

    def _parts(self, payload: Tensor, tokens: int, channels: int) -> _Factors:
        s, t, a, b = payload.split(self._sizes(tokens, channels))
        rank = min(self._rank, tokens, channels)
        s, t = (scale.view(torch.bfloat16).float() for scale in (s, t))
        return _Factors(s, t, self._unpacked(a, tokens, rank), self._unpacked(b, channels, rank))


class _Factors(NamedTuple):
    """The parts of a payload, in float32."""

    s_N: Tensor
    t_C: Tensor
    a_NR: Tensor
    b_CR: Tensor


@lru_cache(maxsize=16)
def _random(channels: int, width: int) -> Constant:
    """Random directions (C, W), the same every time."""
    return Constant(torch.randn(channels, width, generator=torch.Generator().manual_seed(SEED)))


def _gram(x: Tensor) -> Tensor:
    """x^T x in float64, whose range holds the squares of float32 values. Entries that are not finite become zero."""
    wide = x.double()
    return (wide.T @ wide).nan_to_num(0, 0, 0)


def _cholesky(gram: Tensor, ridge: Tensor) -> Tensor:
    """The lower Cholesky factor of gram + ridge * identity. Never raises."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.cholesky_ex(gram + eye * ridge.clamp(min=ALMOST_ZERO)).L


def _orthonormal(x: Tensor) -> Tensor:
    """An orthonormal basis of the columns of x (rows, W) by CholeskyQR; for dependent columns of fewer directions."""
    gram = _gram(x)
    lower = _cholesky(gram, gram.trace() * DEPENDENT)
    return torch.linalg.solve_triangular(lower, x.T.double(), upper=False).T.float()


def _balanced(u_NW: Tensor, rank: int) -> Tensor:
    """The leading directions of the columns of u = d V, V orthonormal, as (N, R): scaled to sqrt(sigma / largest sigma)
    for singular values sigma, then mixed by an orthogonal matrix."""
    energy, basis = torch.linalg.eigh(_gram(u_NW))
    energy, basis = energy[-rank:], basis[:, -rank:]
    largest = energy[-1].clamp(min=ALMOST_ZERO)
    size_R = (energy.clamp(min=largest * DEPENDENT) * largest) ** -0.25
    return (u_NW.double() @ (basis * size_R) @ _hartley(rank, u_NW.device)).float()


def _hartley(rank: int, device: torch.device) -> Tensor:
    """An orthogonal matrix for any rank whose entries are at most sqrt(2 / R): cos + sin of 2 pi j k / R."""
    numbers = torch.arange(rank, dtype=torch.float64, device=device)
    angle = torch.outer(numbers, numbers) * (2 * math.pi / rank)
    return (angle.cos() + angle.sin()) / math.sqrt(rank)


CODECS = (LowRank("low_rank", ident=7, bits=8), LowRank("low_rank_4bit", ident=8, bits=4))
