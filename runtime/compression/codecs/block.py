"""The base class of the codecs with eight bits per value and one scale per block of 32 values.

Legend: N tokens, C channels, K = ceil(N * C / 32) blocks.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from .codec import SMALLEST_SCALE, Codec

BLOCK = 32


class BlockCodec(Codec):
    """Quantises blocks of 32 consecutive values in (N, C) order; a block's scale is its largest magnitude / `largest`.

    Payload, 8.5 bits per value:

        | scale: K x bfloat16 | q: N * C bytes, in (N, C) order |        value = q * scale of its block

    bfloat16 has the range of float32, so no scale overflows. Its coarse rounding costs nothing, because q is computed
    with the rounded scale.
    """

    largest: float
    """The largest magnitude of q."""

    @abstractmethod
    def _to_bytes(self, scaled: Tensor) -> Tensor:
        """The nearest q of each value (float32, at most `largest` in magnitude; may be overwritten), as uint8."""

    @abstractmethod
    def _to_values(self, q: Tensor) -> Tensor:
        """The value (float32) of each q (uint8)."""

    def nbytes(self, tokens: int, channels: int) -> int:
        """2 * K + N * C."""
        values = tokens * channels
        return 2 * _blocks(values) + values

    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """See `Codec.encode`."""
        values = residual_NC.numel()
        blocks = _in_blocks(residual_NC.reshape(-1).float())
        scale = (blocks.abs().amax(1) / self.largest).bfloat16()
        scale = torch.where(scale >= SMALLEST_SCALE, scale, 0)
        inverse = torch.where(scale > 0, scale.float().reciprocal(), 0)
        q = self._to_bytes((blocks * inverse[:, None]).clamp_(-self.largest, self.largest))
        return torch.cat([scale.view(torch.uint8), q.view(-1)[:values]])

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        values = tokens * channels
        split = 2 * _blocks(values)
        scale = payload[:split].view(torch.bfloat16).float()
        q = _in_blocks(self._to_values(payload[split:]))
        return q.mul_(scale[:, None]).view(-1)[:values].view(tokens, channels).to(dtype)


def _blocks(values: int) -> int:
    return -(-values // BLOCK)


def _in_blocks(values: Tensor) -> Tensor:
    missing = -len(values) % BLOCK
    return (pad(values, (0, missing)) if missing else values).view(-1, BLOCK)
