"""Codecs that no node offers: 16bit, which mode `ratio` may choose, and CompactFusion's 2 bits, for benchmarks.

Legend: N tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bitpack import pack, packed_bytes
from .codec import Codec

TINY = torch.finfo(torch.float32).tiny


class Bfloat16(Codec):
    """16 bits per value, as in an uncompressed warm-up. `ratio` may choose it to meet a low ratio.

    Payload: | N * C x bfloat16, in (N, C) order |
    """

    name = "16bit"
    ident = 20
    place = None
    in_ratio = True

    def nbytes(self, tokens: int, channels: int) -> int:
        """2 * N * C."""
        return 2 * tokens * channels

    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """See `Codec.encode`."""
        return residual_NC.bfloat16().reshape(-1).view(torch.uint8)

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        return payload.view(torch.bfloat16).view(tokens, channels).to(dtype, copy=True)


class Reference2Bit(Codec):
    """The two-bit codec of CompactFusion's paper (arXiv 2507.17511): levels at half and twice the scale, with the
    threshold at the scale; the scale of a value is u_n * v_c as in `lloyd_max`.

    Payload: | u: N x float32 | v: C x float32 | codes: N * C x 2 bits in (N, C) order, see bitpack |
    """

    name = "2bit_reference"
    ident = 21
    place = None

    def nbytes(self, tokens: int, channels: int) -> int:
        """4 * (N + C) + ceil(N * C / 4). The scales count twice what the original sends: 16 bits lack the range."""
        return 4 * (tokens + channels) + packed_bytes(tokens * channels, 2)

    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """See `Codec.encode`."""
        d_NC = residual_NC.float()
        v_C = d_NC.abs().mean(0)
        u_N = d_NC.abs().mean(1) / v_C.mean().clamp(min=TINY)
        codes_NC = 2 * (d_NC > 0) + (d_NC.abs() > u_N[:, None] * v_C)
        return torch.cat([u_N.view(torch.uint8), v_C.view(torch.uint8), pack(codes_NC.to(torch.uint8).view(-1), 2)])

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        split = 4 * (tokens + channels)
        u_N, v_C = payload[:split].clone().view(torch.float32).split([tokens, channels])
        codes = (payload[split:, None] >> torch.tensor([0, 2, 4, 6], device=payload.device)) & 3
        levels = torch.tensor([-0.5, -2.0, 0.5, 2.0], device=payload.device)[codes.view(-1)[: tokens * channels].long()]
        return (levels.view(tokens, channels) * u_N[:, None] * v_C).to(dtype)


CODECS = (Bfloat16(), Reference2Bit())
