"""What the host learns of a message after the fact: one record per tensor, left on the device until `read`.

A record has 12 words of 32 bits:

    sent:      | header, 8 words | missing f32 | norm f32 | lost i64 |
    received:  | header, 8 words | checksum of the body u32 | 0 | 0 | 0 |

`missing` is ||x - expected|| / ||x||, `norm` ||x||^2, and `lost` ||x - x_hat||^2 in units of ||x||^2 / LOST: an
integer, so that kernels can add up their parts in any order and always get the same. S tensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from .header import Header

WORDS = 12
"""Words of a record."""
LOST = 1 << 48
_SENT = struct.Struct("<32xffq")
_RECEIVED = struct.Struct("<32xI12x")
_SIZE = 4 * WORDS


class SentRecord(NamedTuple):
    """The header of a tensor that was sent, and the relative sizes of its residual and of its error."""

    header: Header
    missing: float
    error: float
    """||x - x_hat|| / ||x||; not finite if x holds NaN or Inf, or if ||x||^2 exceeds float32."""


class ReceivedRecord(NamedTuple):
    """The header of a tensor that was received, as bytes, and the checksum of the body as it arrived."""

    header: bytes
    total: int


def read(records: Sequence[Tensor]) -> list[bytes]:
    """The records (S, WORDS) int32 of some messages as bytes, message by message. The host waits once."""
    if not records:
        return []
    data = torch.cat([*records]).cpu().numpy().tobytes()
    ends = list(accumulate(len(each) * _SIZE for each in records))
    return [data[start:end] for start, end in zip([0, *ends], ends)]


def sent(data: bytes) -> list[SentRecord]:
    """The records of a message that was sent."""
    found = []
    for start in range(0, len(data), _SIZE):
        missing, norm, lost = _SENT.unpack_from(data, start)
        header = Header.from_bytes(data[start : start + Header.SIZE])
        error = math.sqrt(max(lost, 0) / LOST) if header.finite and norm < math.inf else math.nan
        found.append(SentRecord(header, missing, error))
    return found


def received(data: bytes) -> list[ReceivedRecord]:
    """The records of a message that was received."""
    starts = range(0, len(data), _SIZE)
    return [ReceivedRecord(data[start : start + Header.SIZE], *_RECEIVED.unpack_from(data, start)) for start in starts]
