"""Codec with an 8-bit integer per value: equal steps within a block. Nearly exact; used for warm-up."""

from __future__ import annotations

import torch
from torch import Tensor

from .block import BlockCodec


class Int8(BlockCodec):
    """Payload: see `BlockCodec`; q is int8."""

    name = "int8"
    ident = 1
    place = 10
    value_bits = 8
    distortion = 3e-5
    in_ratio = in_auto = True
    largest = 127

    def _to_bytes(self, scaled: Tensor) -> Tensor:
        return scaled.round_().to(torch.int8).view(torch.uint8)

    def _to_values(self, q: Tensor) -> Tensor:
        return q.view(torch.int8).float()


CODECS = (Int8(),)
