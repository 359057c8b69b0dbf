"""The base class of codecs. A codec is a stateless pair of functions: residual to bytes and bytes to residual.

Legend: N tokens, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

TYPICAL = (1024, 1024)
"""(N, C) of a typical tensor. The part of a payload that is scales depends on the shape, but hardly."""
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""A smaller scale has no finite inverse; values with such a scale are sent as zeros."""


class Codec(ABC):
    """Turns a residual d_NC into bytes and back, with loss.

    Every codec is a contraction: ||d - decode(encode(d))|| <= (1 + 2^-7) ||d|| for every finite d up to 1e34, so no
    message makes a reconstruction worse than no message would.

    A codec is stateless, so one instance serves every stream. `decode` must give the same bits on every machine and
    with any number of threads, because the sender and the receivers each run it and must end with equal bases. It may
    use element-wise float32 operations that are rounded one by one (no fused multiply-add), table look-ups, and sums
    that are exact in float32 whatever their order (integers below 2^24).

    A new codec is one file in this folder that lists its instances in CODECS. All other code that needs to know about a
    codec (the node, rate control, auto, plots) reads the attributes below.
    """

    name: str
    """The name that the user chooses and that reports show."""
    ident: int
    """The codec's number in the header of a payload: 1 to 254, never reused."""
    place: int | None = 100
    """Sort key in the node's list: the smallest first, equal ones by name. None: the node does not offer the codec."""
    value_bits: int | None = None
    """Bits of the code of each value, without scales; plots and rate control sort by it, few bits first. None if values
    have no codes of their own, and for the codecs in comparison.py."""
    distortion: float | None = None
    """The part of a Gaussian residual's energy that the codec loses. `quality`, its supplements and the warm-up of
    `ratio` choose from the codecs that give it; these need value_bits."""
    in_ratio: bool = False
    """Whether `ratio` may choose it after the warm-up."""
    in_auto: bool = False
    """Whether `auto` may choose it."""
    warm_starts: bool = False
    """Whether `encode` makes use of `previous`."""

    @abstractmethod
    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """The payload of a residual (N, C) of any float type: uint8, 1-D, `nbytes(N, C)` long.

        `previous` is the last payload of this codec in the same stream (same N and C), if there is one. Values up to
        1e34 decode to finite values. NaN and Inf do not raise; their payload is not used.
        """

    @abstractmethod
    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """The residual (N, C) decoded from `payload`, a new tensor of `dtype`."""

    @abstractmethod
    def nbytes(self, tokens: int, channels: int) -> int:
        """Bytes of the payload of an (N, C) residual; depends on nothing else."""

    def bits(self, tokens: int, channels: int) -> float:
        """Bits per value of the payload, scales included."""
        return 8 * self.nbytes(tokens, channels) / (tokens * channels)

    def configured(self, rank: int) -> Codec:
        """This codec with factors of `rank` columns; itself if it has no factors. Raises ValueError if rank < 1."""
        return self
