"""The checksum of a body or a supplement: the sum of its 32-bit words, modulo 2**32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALL_WORDS = 1 << 32


def checksums(bodies: Tensor, sizes: Sequence[int]) -> list[int]:
    """The checksum of each body; `bodies` (uint8, aligned) holds them one after the other. The host waits once."""
    return [total % ALL_WORDS for total in body_sums(bodies, sizes).tolist()]


def body_sums(bodies: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum of the words of each body on its device: (S,) int64, not yet modulo 2**32."""
    words = bodies.view(torch.int32)
    if len(set(sizes)) == 1:
        return words.view(len(sizes), sizes[0] // 4).sum(1)
    return torch.stack([body.sum() for body in words.split_with_sizes([nbytes // 4 for nbytes in sizes])])
