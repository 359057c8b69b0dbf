"""What a codec is: a stateless pair of functions between a residual and bytes.

Legend: N tokens, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Codec(ABC):
    """Turns a residual d_NC into bytes and back, with loss.

    Stateless, so one instance serves every stream. `decode` must give the same bits on every machine, because the
    sender and the receivers each run it and must end with equal bases: it may only use element-wise float32 operations
    that are rounded one by one (no reductions, no fused multiply-add) and table look-ups.

    A new codec is one file in this folder that lists its instances in CODECS.
    """

    name: str
    """What the user chooses."""
    ident: int
    """Its number in the header of a payload: 1 to 255, never reused."""

    @abstractmethod
    def encode(self, residual_NC: Tensor) -> Tensor:
        """The bytes of a residual (N, C) of any float type: uint8, 1-D, `nbytes(N, C)` long.

        Values up to 1e34 must decode to finite values. NaN and Inf must not raise; what they give is not used.
        """

    @abstractmethod
    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """The residual (N, C) that `payload` stands for, a new tensor of `dtype`."""

    @abstractmethod
    def nbytes(self, tokens: int, channels: int) -> int:
        """Bytes of the payload of an (N, C) residual; depends on nothing else."""

    def bits(self, tokens: int, channels: int) -> float:
        """Bits per value of the payload, scales included."""
        return 8 * self.nbytes(tokens, channels) / (tokens * channels)
