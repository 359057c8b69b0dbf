"""Codec that sends nothing: the receivers use the prediction as the tensor.

Legend: N tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .codec import Codec


class Skip(Codec):
    """Empty payload; every residual decodes to zeros. For rate control only: used alone it would send nothing."""

    name = "skip"
    ident = 10
    place = None
    value_bits = 0
    distortion = 1.0
    in_ratio = True

    def nbytes(self, tokens: int, channels: int) -> int:
        """0."""
        return 0

    def encode(self, residual_NC: Tensor, previous: Tensor | None = None) -> Tensor:
        """See `Codec.encode`."""
        return torch.empty(0, dtype=torch.uint8, device=residual_NC.device)

    def decode(self, payload: Tensor, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
        """See `Codec.decode`."""
        return torch.zeros(tokens, channels, dtype=dtype, device=payload.device)


CODECS = (Skip(),)
