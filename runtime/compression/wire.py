"""The wire protocol, which turns tensors into bytes and back: the only interface of compression that attention uses.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .header import WireError

Shapes = Sequence[tuple[int, int, int]]
"""(B, N, C) of each tensor of a message."""


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
    """How many tokens at the start of the sender's chunk are text; with keep_text_exact they are sent raw."""
    sensitive: bool = False
    """True if an error would reach the picture without passing through an attention: at least 8 bits are sent."""


class Payload(NamedTuple):
    """One message (uint8, 1-D, contiguous). `more` is empty unless supplements were needed to meet the error bound."""

    first: Tensor
    more: Tensor


class Wire(Protocol):
    """Packs tensors that are sent over a link and unpacks them. One object per job and rank; it owns all state."""

    def pack(self, tensors: Sequence[Tensor], tag: Tag) -> Payload:
        """Packs tensors, (B, N, C) each, of one dtype and any strides, into one message."""

    def pack_shared(self, tensors: Sequence[Tensor], tag: Tag) -> tuple[Payload, list[Tensor]]:
        """`pack`, and the values that the receivers will get: for tensors that must be equal on all ranks."""

    def packed_size(self, source: int, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> int:
        """Bytes of `Payload.first` of the next message of rank `source`. No communication is needed, because both ends
        hold the same state. Call it before `unpack`, which advances that state."""

    def more_size(self, source: int, first: Tensor, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> int:
        """Bytes of `Payload.more` of the message whose first part has arrived. Raises WireError if it is damaged."""

    def unpack(self, source: int, payload: Payload, out: Sequence[Tensor], tag: Tag) -> None:
        """Unpacks the message of rank `source` into the tensors `out`, (B, N, C) each, views of any strides.

        Raises WireError for an unexpected or damaged payload; then nothing has changed.
        """


class RawWire:
    """The wire without compression, bit-exact: the tensors' bytes one after the other."""

    def pack(self, tensors: Sequence[Tensor], tag: Tag) -> Payload:
        """See `Wire.pack`. The payload of one contiguous tensor is that tensor's own memory: no copy is made."""
        if len(tensors) == 1:
            return Payload(as_bytes(tensors[0]), nothing(tensors[0].device))
        first = torch.empty(sum(x.numel() for x in tensors), dtype=tensors[0].dtype, device=tensors[0].device)
        for part, x_BNC in zip(first.split([x.numel() for x in tensors]), tensors):
            part.view(x_BNC.shape).copy_(x_BNC)
        return Payload(as_bytes(first), nothing(first.device))

    def pack_shared(self, tensors: Sequence[Tensor], tag: Tag) -> tuple[Payload, list[Tensor]]:
        """See `Wire.pack_shared`."""
        return self.pack(tensors, tag), list(tensors)

    def packed_size(self, source: int, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> int:
        """See `Wire.packed_size`."""
        return sum(map(prod, shapes)) * dtype.itemsize

    def more_size(self, source: int, first: Tensor, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> int:
        """0: there are no supplements."""
        return 0

    def unpack(self, source: int, payload: Payload, out: Sequence[Tensor], tag: Tag) -> None:
        """See `Wire.unpack`."""
        shapes, dtype = [tuple(x.shape) for x in out], out[0].dtype
        require_size(payload.first, self.packed_size(source, shapes, dtype, tag), source, tag)
        parts = payload.first.split([prod(shape) * dtype.itemsize for shape in shapes])
        for part, x_BNC in zip(parts, out):
            x_BNC.copy_(as_dtype(part, dtype).view(x_BNC.shape))


def as_bytes(x: Tensor) -> Tensor:
    """The bytes of a tensor, 1-D uint8: a view if it is contiguous, else a copy."""
    return x.reshape(-1).view(torch.uint8)


def as_dtype(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as values of `dtype`, 1-D: a view if they are aligned for that dtype, else a copy."""
    return (part.clone() if part.storage_offset() % dtype.itemsize else part).view(dtype)


def nothing(device: torch.device) -> Tensor:
    """An empty byte tensor."""
    return torch.empty(0, dtype=torch.uint8, device=device)


def require_size(part: Tensor, nbytes: int, source: int, tag: Tag) -> None:
    """Raises WireError unless a part of a message has the expected size `nbytes`."""
    if part.numel() != nbytes:
        raise WireError(
            f"{tag.layer} {tag.name}: the payload of rank {source} has {part.numel()} bytes where {nbytes} are "
            "expected: it was truncated, or the ranks do not see the same messages."
        )
