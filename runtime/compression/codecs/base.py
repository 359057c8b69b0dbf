"""What a codec is: a stateless pair of functions between a residual and bytes.

Legend: N tokens, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

TYPICAL = (1024, 1024)
"""(N, C) of a typical tensor: how much of a payload is scales depends on its shape, but hardly."""
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""A smaller scale has no finite inverse; what it would scale is sent as zeros."""


class Codec(ABC):
    """Turns a residual d_NC into bytes and back, with loss.

    Every codec is a contraction: ||d - decode(encode(d))|| <= (1 + 2^-7) ||d|| for every finite d up to 1e34, so no
    message makes a reconstruction worse than no message would.

    Stateless, so one instance serves every stream. `decode` must give the same bits on every machine and with any
    number of threads, because the sender and the receivers each run it and must end with equal bases. It may use
    element-wise float32 operations that are rounded one by one (no fused multiply-add), table look-ups, and sums that
    are exact in float32 whatever their order (integers below 2^24).

    A new codec is one file in this folder that lists its instances in CODECS. Whatever else has to know about it (the
    node, rate control, auto, plots) goes by the attributes below.
    """

    name: str
    """What the user chooses, and what reports call it."""
    ident: int
    """Its number in the header of a payload: 1 to 254, never reused."""
    place: int | None = 100
    """Where the node lists it, the smallest first and equal ones by name. None: the node does not offer it."""
    value_bits: int | None = None
    """Bits of the code that every value has, scales not counted: plots and rate control go from few to many. None where
    values have no codes of their own, and for what is only compared with."""
    distortion: float | None = None
    """The part of a Gaussian residual's energy that it loses. `quality`, its supplements and the warm-up of `ratio`
    choose from the codecs that tell it; these need value_bits."""
    in_ratio: bool = False
    """Whether `ratio` may choose it after the warm-up."""
    in_auto: bool = False
    """Whether `auto` may choose it."""
    warm_starts: bool = False
    """Whether `encode` makes use of `previous`."""

    @abstractmethod
    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """The bytes of a residual (N, C) of any float type: uint8, 1-D, `nbytes(N, C)` long.

        `previous` is the last payload that this codec made for the same stream (same N and C), if there is one.
        Values up to 1e34 decode to finite values. NaN and Inf do not raise; what they give is not used.
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

    def configured(self, rank: int) -> Codec:
        """This codec with factors of `rank` columns; itself where it has none. Raises ValueError if rank < 1."""
        return self
