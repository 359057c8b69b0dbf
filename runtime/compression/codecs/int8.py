"""Eight bits per value with one scale per block of 32 values. Nearly exact; used for warm-up.

Legend: N tokens, C channels, K = ceil(N * C / 32) blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import Codec

BLOCK = 32
LARGEST = 127
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""A smaller scale has no finite inverse; such a block is sent as zeros."""


class Int8(Codec):
    """Blocks of 32 values that follow each other in (N, C) order, each divided by its largest magnitude / 127.

    Payload, 8.5 bits per value:

        | scale: K x bfloat16 | q: N * C x int8, in (N, C) order |        value = q * scale of its block

    bfloat16 has the range of float32, so no scale overflows; that it is coarse costs nothing, as q is found with the
    rounded scale.
    """

    name = "int8"
    ident = 1

    def nbytes(self, tokens: int, channels: int) -> int:
        """2 * K + N * C."""
        values = tokens * channels
        return 2 * _blocks(values) + values

    def encode(self, residual_NC: Tensor) -> Tensor:
        """See `Codec.encode`."""
        values = residual_NC.numel()
        blocks = _in_blocks(residual_NC.reshape(-1).float())
        scale = (blocks.abs().amax(1) / LARGEST).bfloat16()
        scale = torch.where(scale >= SMALLEST_SCALE, scale, 0)
        inverse = torch.where(scale > 0, scale.float().reciprocal(), 0)
        q = (blocks * inverse[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
        return torch.cat([scale.view(torch.uint8), q.view(-1)[:values].view(torch.uint8)])

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        values = tokens * channels
        split = 2 * _blocks(values)
        scale = payload[:split].view(torch.bfloat16).float()
        q = _in_blocks(payload[split:].view(torch.int8).float())
        return q.mul_(scale[:, None]).view(-1)[:values].view(tokens, channels).to(dtype)


def _blocks(values: int) -> int:
    return -(-values // BLOCK)


def _in_blocks(values: Tensor) -> Tensor:
    missing = -len(values) % BLOCK
    return (pad(values, (0, missing)) if missing else values).view(-1, BLOCK)


CODECS = (Int8(),)
