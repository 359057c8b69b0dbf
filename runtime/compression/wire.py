"""The Wire protocol, which turns tensors into bytes and back, and RawWire, which does so without compression.

Attention and sharding use compression through this interface only. The wire that compresses is in residual_wire.py.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .header import WireError


@dataclass(frozen=True)
class Tag:
    """Names the tensors of one message. Equal on sender and receiver.

    A sender that sends different tensors of one layer to different peers must give them different names.
    """

    layer: str
    """Module path of the attention layer."""
    name: str
    """The kind of tensors sent, for example "kv"."""
    slots: tuple[tuple[str, int], ...]
    """Per batch entry (cond, sample index): residual state never mixes between them."""
    exact_tokens: int = 0
    """How many tokens at the start of the sender's shard are text; with keep_text_exact they are sent raw."""
    sensitive: bool = False
    """True if an error would reach the picture without passing through an attention: at least 8 bits are sent."""


@dataclass(frozen=True)
class Spec:
    """The tensors of one message: their tag, the shape (B, N, C) of each and the dtype of all.

    Equal on sender and receiver. A wire looks its state up by it, once per message.
    """

    tag: Tag
    shapes: tuple[tuple[int, int, int], ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensors: Sequence[Tensor], tag: Tag) -> Spec:
        """The spec of a message that holds `tensors`, (B, N, C) each, of one dtype."""
        return cls(tag, tuple(tuple(x.shape) for x in tensors), tensors[0].dtype)

    @cached_property
    def numels(self) -> tuple[int, ...]:
        """The number of values of each tensor."""
        return tuple(map(prod, self.shapes))

    @cached_property
    def values(self) -> int:
        """The number of values of all tensors."""
        return sum(self.numels)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.values * self.dtype.itemsize


class Payload(NamedTuple):
    """One message (uint8, 1-D, contiguous). `supplements`: a second part, if one was needed to meet the error bound."""

    first: Tensor
    supplements: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of both parts."""
        return self.first.numel() + (0 if self.supplements is None else self.supplements.numel())


class ExpectedMessage(Protocol):
    """The next message of one rank: a handle that has looked up all that its receiver knows of it."""

    nbytes: int
    """Bytes of `Payload.first`."""

    def supplements_nbytes(self, first: Tensor) -> int:
        """Bytes of `Payload.supplements`, read from the first part. Raises WireError if that is damaged."""

    def unpack(self, payload: Payload, out: Sequence[Tensor]) -> None:
        """Unpacks the message, once, into the tensors `out`, (B, N, C) each, views of any strides.

        Raises WireError for a payload of the wrong size, and for an unexpected or damaged one where it is read at once;
        then nothing has changed. Otherwise `Wire.settle` raises it.
        """


class Wire(Protocol):
    """Packs tensors that are sent over a link and unpacks them. One object per job and rank; it owns all state."""

    def pack(self, tensors: Sequence[Tensor], spec: Spec) -> Payload:
        """Packs the tensors of `spec`, of any strides, into one message."""

    def pack_shared(self, tensors: Sequence[Tensor], spec: Spec) -> tuple[Payload, list[Tensor]]:
        """`pack`, and the values that the receivers will get: for tensors that must be equal on all ranks."""

    def expect(self, source: int, spec: Spec) -> ExpectedMessage:
        """The next message of rank `source`. Nothing is asked of that rank, because both ends hold the same state.

        An earlier message of the same tensors must have been unpacked.
        """

    def first_nbytes(self, spec: Spec) -> int:
        """Bytes of `Payload.first` of the very first message of `spec`; those of later ones may be smaller."""

    def settle(self) -> None:
        """Reads what the messages since the last time have left on the device: call it when a model call has ended.

        The host waits at most once. Raises WireError if a payload was unexpected or damaged; then every stream starts
        anew, and the results of the call must not be used.
        """


class RawWire:
    """The wire without compression, bit-exact: the tensors' bytes one after the other."""

    def pack(self, tensors: Sequence[Tensor], spec: Spec) -> Payload:
        """See `Wire.pack`. The payload of one contiguous tensor is that tensor's own memory: no copy is made."""
        if len(tensors) == 1:
            return Payload(as_bytes(tensors[0]))
        first = torch.empty(spec.values, dtype=spec.dtype, device=tensors[0].device)
        for piece, x_BNC in zip(first.split_with_sizes(spec.numels), tensors):
            piece.view(x_BNC.shape).copy_(x_BNC)
        return Payload(first.view(torch.uint8))

    def pack_shared(self, tensors: Sequence[Tensor], spec: Spec) -> tuple[Payload, list[Tensor]]:
        """See `Wire.pack_shared`."""
        return self.pack(tensors, spec), list(tensors)

    def expect(self, source: int, spec: Spec) -> ExpectedMessage:
        """See `Wire.expect`."""
        return _RawMessage(source, spec)

    def first_nbytes(self, spec: Spec) -> int:
        """See `Wire.first_nbytes`."""
        return spec.nbytes

    def settle(self) -> None:
        """See `Wire.settle`: there is nothing to read."""


class _RawMessage:
    """See `ExpectedMessage`."""

    def __init__(self, source: int, spec: Spec) -> None:
        self._source, self._spec = source, spec
        self.nbytes = spec.nbytes

    def supplements_nbytes(self, first: Tensor) -> int:
        """0: there are no supplements."""
        return 0

    def unpack(self, payload: Payload, out: Sequence[Tensor]) -> None:
        """See `ExpectedMessage.unpack`."""
        spec = self._spec
        require_size(payload.first.numel(), self.nbytes, self._source, spec.tag)
        pieces = as_dtype(payload.first, spec.dtype).split_with_sizes(spec.numels)
        for piece, x_BNC in zip(pieces, out):
            x_BNC.copy_(piece.view(x_BNC.shape))


def as_bytes(x: Tensor) -> Tensor:
    """The bytes of a tensor, 1-D uint8: a view if it is contiguous, else a copy."""
    return x.reshape(-1).view(torch.uint8)


def as_dtype(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as values of `dtype`, 1-D: a view if they are aligned for that dtype, else a copy."""
    return (data.clone() if data.storage_offset() % dtype.itemsize else data).view(dtype)


def require_size(nbytes: int, expected: int, source: int, tag: Tag) -> None:
    """Raises WireError unless a part of a message has the expected size."""
    if nbytes != expected:
        raise WireError(
            f"{tag.layer} {tag.name}: the payload of rank {source} has {nbytes} bytes where {expected} are "
            "expected: it was truncated, or the ranks do not see the same messages."
        )
