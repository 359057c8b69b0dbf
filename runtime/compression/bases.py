"""The bases of a stream, which are its last reconstructions: stored as they are, or in block int8 to save memory.

Legend: N tokens, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .codecs import BY_NAME

SMALL = BY_NAME["int8"]


class Keeping(NamedTuple):
    """How a stream stores its bases: how many of them, and in block int8 if `small`."""

    bases: int
    small: bool


class Base(NamedTuple):
    """One reconstruction (N, C): its values, or their int8 payload if `small`.

    Both ends quantise the same values with the same element-wise operations, so small bases are equal on both ends too.
    The loop stays closed: the error that int8 adds to the base becomes part of the next residual.
    """

    data: Tensor
    small: bool

    @classmethod
    def of(cls, x_hat_NC: Tensor, small: bool) -> Base:
        """The base that stores `x_hat_NC`, as it is or as its int8 payload."""
        return cls(SMALL.encode(x_hat_NC), True) if small else cls(x_hat_NC, False)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored data."""
        return self.data.nbytes

    def read(self, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """The values of the base (N, C)."""
        return SMALL.decode(self.data, tokens, channels, dtype) if self.small else self.data


def base_nbytes(tokens: int, channels: int, dtype: torch.dtype, small: bool) -> int:
    """Bytes of one base."""
    return SMALL.nbytes(tokens, channels) if small else tokens * channels * dtype.itemsize
