"""The header of 32 bytes in front of every encoded tensor: how it was coded and which codec the next one will have.

Each message announces the codec of the next one. So both ends know the size of the next payload without asking,
although only the sender decides (warm-up, memory budget, rate control).

Three words depend on the values of the tensor: k, the flags and the checksum. On a GPU they are written there, into a
template, so that the host need not wait for them; the others are known before anything is computed.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = 0xC7
VERSION = 3
RAW = 0
"""The codec number of plain bytes."""
NONE = 255
"""The codec number that means: no supplement."""


class WireError(RuntimeError):
    """A payload that is truncated, damaged, or not the one its receiver expects; the message says which."""


WORDS = 8
"""Words of 32 bits in a header."""
K, FLAGS, CHECKSUM = 4, 5, 7
"""The words that depend on the values of the tensor."""
FINITE = 1 << 8
"""What `finite` adds to the flags; the number of bases that the prediction used is in the lowest byte."""
_LAYOUT = struct.Struct("<8BIIfBBHI")
"""All fields but the checksum."""
_WORDS = struct.Struct("<7I")
"""The same bytes as words, whose sum makes the checksum cover the header."""
_CHECKSUM = struct.Struct("<I")
_ALL_WORDS = 1 << 32


class Header(NamedTuple):
    """Header of one encoded tensor. Layout, little-endian:

    | magic u8 | version u8 | codec u8 | next_codec u8 | keep u8 | small_bases u8 | sequence u8 | supplement u8 |
    | length u32 | supplement_checksum u32 | k f32 | predicted_from u8 | finite u8 | 0 u16 | 0 u32 | checksum u32 |
    """

    codec: int
    """Number of the codec of this body, or RAW."""
    predicted_from: int
    """How many bases the prediction used: all of the stream, or none if they predict the tensor worse than zeros do."""
    next_codec: int
    """Codec of the stream's next body."""
    keep: int
    """How many bases to hold from now on."""
    finite: bool
    """False: the tensor held NaN or Inf, the body is meaningless, and the stream starts anew."""
    sequence: int
    """Messages of this stream so far, modulo 256."""
    supplement: int
    """Codec of the supplement, the second part of the message, which makes up for the loss; NONE without one."""
    small_bases: bool
    """Hold the bases in block int8."""
    k: float
    """Factor of the predictor, a float32."""
    length: int
    """Bytes of the body."""
    supplement_checksum: int
    """Sum of the 32-bit words of the supplement, modulo 2**32."""
    checksum: int
    """Sum of the 32-bit words of the body, modulo 2**32; on the wire the words of the header itself are added."""

    SIZE = 32

    def to_bytes(self) -> bytes:
        """The header as 32 bytes.

        One with k = 0, no flags and checksum 0 is a template: whoever fills in these words adds them, and the sum of
        the body, to the checksum.
        """
        data = _LAYOUT.pack(
            MAGIC, VERSION, self.codec, self.next_codec, self.keep, self.small_bases, self.sequence, self.supplement,
            self.length, self.supplement_checksum, self.k, self.predicted_from, self.finite, 0, 0,
        )  # fmt: skip
        return data + _CHECKSUM.pack((self.checksum + sum(_WORDS.unpack(data))) % _ALL_WORDS)

    @classmethod
    def all_from_bytes(cls, data: bytes) -> list[Header]:
        """The headers that follow each other in `data`. Raises WireError if one is no header of this version."""
        return [cls.from_bytes(data[start : start + cls.SIZE]) for start in range(0, len(data), cls.SIZE)]

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """The inverse of `to_bytes`. Raises WireError if the data is no header of this version."""
        head, tail = data[: _LAYOUT.size], data[_LAYOUT.size :]
        magic, version, codec, following, keep, small, sequence, supplement, length, more, k, used, finite, _, _ = (
            _LAYOUT.unpack(head)
        )
        if (magic, version) != (MAGIC, VERSION):
            raise WireError(f"A payload starts with {magic}, {version} instead of {MAGIC}, {VERSION}: it was damaged.")
        checksum = (_CHECKSUM.unpack(tail)[0] - sum(_WORDS.unpack(head))) % _ALL_WORDS
        return cls(
            codec, used, following, keep, bool(finite), sequence, supplement, bool(small), k, length, more, checksum
        )
